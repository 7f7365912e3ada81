# One archive, or one module of WebAssembly, with what one plan needs: `rtaccel pack` writes the file RTACCEL_PACK and calls this.
#   PACK_NAME    of the model, an identifier       PACK_OPS     operators whose kernels are compiled
#   PACK_WANTED  header that says which of them    PACK_EMBED   the model's file, where it is to be within
include("${RTACCEL_PACK}")
set(RTACCEL_OPS ${PACK_OPS})
rtaccel_kernel_sources(sources)
list(FILTER sources EXCLUDE REGEX "/kernels/online/")
file(GLOB native "native/model/*.cc" "native/packed/*.cc")
if(EMSCRIPTEN)  # a page has no threads, no files to open and no libraries to look for keys in
  list(FILTER sources EXCLUDE REGEX "/thread_pool\\.cc$")
  list(FILTER native EXCLUDE REGEX "/verify\\.cc$")
  add_compile_options(-msimd128 -sSUPPORT_LONGJMP=wasm)
endif()
# Failures are jumps, and what C++ asks its run-time library for is in native/packed: a program links none.
add_compile_options(-ffunction-sections -fdata-sections -fno-exceptions -fno-rtti -fno-asynchronous-unwind-tables
                    -fno-unwind-tables "-DRTA_WANTED=\"${PACK_WANTED}\"")
add_compile_definitions(RTA_PACKED _GLIBCXX_EXTERN_TEMPLATE=0 _LIBCPP_DISABLE_EXTERN_TEMPLATE)
add_library(pack_objects OBJECT ${sources} ${native})
target_include_directories(pack_objects PRIVATE ${RTACCEL_INCLUDES})
# Speed is the kernels'; what builds the plan once is to be small.
file(GLOB once "kernels/_core/stage.cc" "kernels/_core/plan_*.cc" "kernels/_core/isa.cc" "kernels/_common/checks.cc"
     "kernels/_expression/iteration.cc" "kernels/linear/layer.cc" "kernels/recurrent/recurrent.cc")
list(FILTER once EXCLUDE REGEX "plan_(threads|some|profile)")
set_source_files_properties(${native} ${once} PROPERTIES COMPILE_OPTIONS "-Os")
if(PACK_EMBED)
  set(embedded "${PROJECT_BINARY_DIR}/embedded.cc")
  if(EMSCRIPTEN)
    set(flags ",\\\"\\\",@\\n.type ${PACK_NAME}_model,@object\\n.size ${PACK_NAME}_model,${PACK_EMBED_BYTES}")
    set(after "")
  else()
    set(flags ",\\\"a\\\"")
    set(after ".previous\\n")
  endif()
  file(WRITE "${embedded}" "__asm__(\".section .rodata.${PACK_NAME}_model${flags}\\n.balign 64\\n.global ${PACK_NAME}_model\\n\"
        \"${PACK_NAME}_model:\\n.incbin \\\"${PACK_EMBED}\\\"\\n${after}\");\n")
  target_sources(pack_objects PRIVATE "${embedded}")
endif()

if(EMSCRIPTEN)
  include(cmake/pack_wasm.cmake)
  return()
endif()

# All objects become one, so that the kernels' entries in the table are linked with anything that is used. It shows the C
# ABI alone: a program in C++ keeps its own `operator new`, and its own instances of templates.
set(object "${PROJECT_BINARY_DIR}/${PACK_NAME}.o")
set(archive "${PROJECT_BINARY_DIR}/lib${PACK_NAME}.a")
add_custom_command(OUTPUT "${archive}"
  COMMAND ${CMAKE_LINKER} -r --force-group-allocation -o "${object}" $<TARGET_OBJECTS:pack_objects>
  COMMAND ${CMAKE_OBJCOPY} --strip-debug --wildcard --keep-global-symbol=rta_[a-z]* --keep-global-symbol=${PACK_NAME}_model
          "${object}"
  COMMAND ${CMAKE_COMMAND} -E rm -f "${archive}"
  COMMAND ${CMAKE_AR} rcs "${archive}" "${object}"
  DEPENDS pack_objects $<TARGET_OBJECTS:pack_objects> COMMAND_EXPAND_LISTS VERBATIM)
add_custom_target(pack ALL DEPENDS "${archive}")

# A program that opens the model and steps: without a run-time library of C++, for its size and the memory it asks for.
add_executable(probe EXCLUDE_FROM_ALL "${PROJECT_SOURCE_DIR}/native/packed/probe/main.cc" $<TARGET_OBJECTS:pack_objects>)
target_include_directories(probe PRIVATE ${RTACCEL_INCLUDES})
target_link_options(probe PRIVATE "LINKER:--gc-sections,-z,noseparate-code,-Map=${PROJECT_BINARY_DIR}/probe.map")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_link_options(probe PRIVATE -nodefaultlibs)
  target_link_libraries(probe PRIVATE m c gcc)
else()
  target_link_options(probe PRIVATE -nostdlib++)
endif()
add_custom_command(TARGET probe POST_BUILD
  COMMAND ${CMAKE_OBJCOPY} --strip-all $<TARGET_FILE:probe> "${PROJECT_BINARY_DIR}/probe.stripped")
