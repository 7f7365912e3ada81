# What users of C and C++ find: the library, its headers, and how CMake and pkg-config come to them. In a wheel all of it
# lies in the package; else as `cmake --install` lays things out, with a static library beside the shared one.
if(SKBUILD)
  set(RTACCEL_PREFIX rtaccel/)
  set(RTACCEL_LIBRARIES "")
  # What `rtaccel pack` compiles. CMakeLists.txt finds the version beside it. Of the rooms beside native/model a packed
  # library has no code, yet rtaccel.h includes their headers.
  install(DIRECTORY kernels DESTINATION rtaccel/source
          FILES_MATCHING PATTERN "*.cc" PATTERN "*.h" PATTERN "*.def" PATTERN "*.in"
          PATTERN "__pycache__" EXCLUDE PATTERN "triton" EXCLUDE PATTERN "cuda" EXCLUDE)
  install(DIRECTORY native/model native/packed DESTINATION rtaccel/source/native)
  install(FILES native/rtaccel.h native/rtaccel.hpp DESTINATION rtaccel/source/native)
  file(GLOB RTACCEL_ROOMS CONFIGURE_DEPENDS RELATIVE "${PROJECT_SOURCE_DIR}" "native/*/rta_*.h")
  foreach(header ${RTACCEL_ROOMS})
    get_filename_component(room "${header}" DIRECTORY)
    install(FILES "${header}" DESTINATION "rtaccel/source/${room}")
  endforeach()
  install(FILES CMakeLists.txt DESTINATION rtaccel/source)
  install(DIRECTORY cmake DESTINATION rtaccel/source)
else()
  set(RTACCEL_PREFIX "")
  set(RTACCEL_LIBRARIES lib/)
  add_library(rtaccel_static STATIC $<TARGET_OBJECTS:rtaccel_kernels>)
  set_target_properties(rtaccel_static PROPERTIES OUTPUT_NAME rtaccel)
  install(TARGETS rtaccel_static ARCHIVE DESTINATION lib)
endif()
set(RTACCEL_UP ../../..)
set(RTACCEL_PC_UP ../..)
install(TARGETS rtaccel_core LIBRARY DESTINATION ${RTACCEL_PREFIX}${RTACCEL_LIBRARIES})
file(GLOB RTACCEL_HEADERS CONFIGURE_DEPENDS "native/rta*.h" "native/*.hpp" "native/*/rta_*.h" "kernels/_core/rta_*.h")
list(FILTER RTACCEL_HEADERS EXCLUDE REGEX "/rta_packed\\.h$")  # of packed libraries alone
install(FILES ${RTACCEL_HEADERS} DESTINATION ${RTACCEL_PREFIX}include)
configure_file(cmake/rtaccelConfig.cmake.in rtaccelConfig.cmake @ONLY)
configure_file(cmake/rtaccel.pc.in rtaccel.pc @ONLY)
include(CMakePackageConfigHelpers)
write_basic_package_version_file(rtaccelConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/rtaccelConfig.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/rtaccelConfigVersion.cmake"
        DESTINATION ${RTACCEL_PREFIX}lib/cmake/rtaccel)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/rtaccel.pc" DESTINATION ${RTACCEL_PREFIX}lib/pkgconfig)
