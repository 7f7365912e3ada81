# One archive with what one plan needs: `rtaccel pack` writes the file RTACCEL_PACK and calls this.
#   PACK_NAME    of the model, an identifier       PACK_OPS     operators whose kernels are compiled
#   PACK_WANTED  header that says which of them    PACK_EMBED   the model's file, where it is to be within
include("${RTACCEL_PACK}")
set(RTACCEL_OPS ${PACK_OPS})
rtaccel_kernel_sources(sources)
file(GLOB native "native/model/*.cc")
add_compile_options(-ffunction-sections -fdata-sections "-DRTA_WANTED=\"${PACK_WANTED}\"")
add_library(pack_objects OBJECT ${sources} ${native})
target_include_directories(pack_objects PRIVATE ${RTACCEL_INCLUDES})
# Speed is the kernels'; what builds the plan once is to be small.
file(GLOB once "kernels/_core/stage.cc" "kernels/_core/plan_*.cc" "kernels/_core/isa.cc")
set_source_files_properties(${native} ${once} PROPERTIES COMPILE_OPTIONS "-Os")
if(PACK_EMBED)
  set(embedded "${PROJECT_BINARY_DIR}/embedded.cc")
  file(WRITE "${embedded}" "__asm__(\".section .rodata.${PACK_NAME}_model,\\\"a\\\"\\n.balign 64\\n.global ${PACK_NAME}_model\\n\"
        \"${PACK_NAME}_model:\\n.incbin \\\"${PACK_EMBED}\\\"\\n.previous\\n\");\n")
  target_sources(pack_objects PRIVATE "${embedded}")
endif()

# All objects become one, so that the kernels' entries in the table are linked with anything that is used.
set(object "${PROJECT_BINARY_DIR}/${PACK_NAME}.o")
set(archive "${PROJECT_BINARY_DIR}/lib${PACK_NAME}.a")
add_custom_command(OUTPUT "${archive}"
  COMMAND ${CMAKE_LINKER} -r -o "${object}" $<TARGET_OBJECTS:pack_objects>
  COMMAND ${CMAKE_OBJCOPY} --strip-debug "${object}"
  COMMAND ${CMAKE_COMMAND} -E rm -f "${archive}"
  COMMAND ${CMAKE_AR} rcs "${archive}" "${object}"
  DEPENDS pack_objects $<TARGET_OBJECTS:pack_objects> COMMAND_EXPAND_LISTS VERBATIM)
add_custom_target(pack ALL DEPENDS "${archive}")
