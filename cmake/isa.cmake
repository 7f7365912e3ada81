# The instruction sets of the native core, and the source files that each of them compiles.
#
# A set is a header kernels/_shared/simd_<set>.h, a row of kernels/_shared/isa.cc, and here its compiler flags. Where it
# only adds a dot product to another set, RTACCEL_ADDS_<set> names that product, and only kernels that use it are
# compiled for the set: the others would come out the same again.

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(RTACCEL_ISAS portable avx2 avx512vnni)
  set(RTACCEL_FLAGS_avx2 -mavx2 -mfma)
  set(RTACCEL_FLAGS_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mprefer-vector-width=512)
  set(RTACCEL_FLAGS_avx512vnni ${RTACCEL_FLAGS_avx512} -mavx512vnni)
else()
  set(RTACCEL_ISAS portable)
endif()

# Sets ${result} to all sources of the core: every kernels/*/*.cc, and for every kernels/*/cpu_*.h that defines
# register_kernels one file per instruction set. A header that uses dot products says so in a comment line of its own,
# "// Dot products: int8" (S::dot), "bf16" (S::dot_bf16) or both. A hand-written file that is meant for one set ends in
# _<set>.cc: it gets the set's flags, and is left out on machines of another kind.
function(rtaccel_kernel_sources result)
  file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/kernels/*/*.cc")
  list(FILTER sources EXCLUDE REGEX "_(avx|amx|neon)[a-z0-9]*\\.cc$")
  foreach(isa ${RTACCEL_ISAS})
    file(GLOB own CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/kernels/*/*_${isa}.cc")
    if(NOT isa STREQUAL "portable")
      list(APPEND sources ${own})
      set_source_files_properties(${own} PROPERTIES COMPILE_OPTIONS "${RTACCEL_FLAGS_${isa}}")
    endif()
  endforeach()

  file(GLOB headers CONFIGURE_DEPENDS RELATIVE "${PROJECT_SOURCE_DIR}/kernels" "${PROJECT_SOURCE_DIR}/kernels/*/cpu_*.h")
  foreach(header ${headers})
    set(path "${PROJECT_SOURCE_DIR}/kernels/${header}")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${path}")
    file(STRINGS "${path}" registers REGEX "void register_kernels\\(")
    if(NOT registers)
      continue()
    endif()
    file(STRINGS "${path}" dots REGEX "^// Dot products: ")
    foreach(isa ${RTACCEL_ISAS})
      if(RTACCEL_ADDS_${isa} AND NOT dots MATCHES "${RTACCEL_ADDS_${isa}}")
        continue()
      endif()
      string(REPLACE ".h" "_${isa}.cc" name "${header}")
      set(generated "${PROJECT_BINARY_DIR}/kernels/${name}")
      configure_file("${PROJECT_SOURCE_DIR}/kernels/_shared/cpu_isa.cc.in" "${generated}" @ONLY)
      set_source_files_properties("${generated}" PROPERTIES COMPILE_OPTIONS "${RTACCEL_FLAGS_${isa}}")
      list(APPEND sources "${generated}")
    endforeach()
  endforeach()
  set(${result} ${sources} PARENT_SCOPE)
endfunction()
