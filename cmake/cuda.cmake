# Kernels in CUDA C++ by nvcc: KEY.fatbin of each form, for programs in C that take no code from a model's file
# (rta_gpu_code). `rtaccel kernel-sources` writes the forms. Python needs none of it: there NVRTC compiles the same files
# (kernels/_gpu/cuda_nvrtc.py).
set(RTACCEL_CUDA_FORMS "" CACHE PATH "Folder of forms, as `rtaccel kernel-sources` writes them: KEY.sm_80.sm_90.cu")
find_program(RTACCEL_NVCC nvcc HINTS ENV CUDA_HOME PATH_SUFFIXES bin)

if(NOT RTACCEL_NVCC)
  message(FATAL_ERROR "RTACCEL_CUDA=ON, but nvcc was not found: set CUDA_HOME or RTACCEL_NVCC")
endif()
file(GLOB RTACCEL_FORMS CONFIGURE_DEPENDS "${RTACCEL_CUDA_FORMS}/*.cu")
if(NOT RTACCEL_CUDA_FORMS OR NOT RTACCEL_FORMS)
  message(FATAL_ERROR "RTACCEL_CUDA=ON, but RTACCEL_CUDA_FORMS='${RTACCEL_CUDA_FORMS}' holds no form: "
                      "rtaccel kernel-sources MODEL.rta FOLDER")
endif()

file(GLOB_RECURSE RTACCEL_CUDA_SOURCES CONFIGURE_DEPENDS "kernels/*.cu" "kernels/_persistent/*.h" "kernels/_common/activations/*")
file(GLOB RTACCEL_CUDA_OF_OPERATORS CONFIGURE_DEPENDS "kernels/*/cuda/*.h" "kernels/*/cuda/*/*.h")
set(RTACCEL_FATBINS "")
foreach(form IN LISTS RTACCEL_FORMS)
  get_filename_component(key "${form}" NAME_WE)
  get_filename_component(name "${form}" NAME)
  string(REGEX MATCHALL "sm_[0-9]+" cards "${name}")
  set(gencode "")
  foreach(card IN LISTS cards)
    string(REPLACE "sm_" "compute_" virtual "${card}")
    list(APPEND gencode "-gencode=arch=${virtual},code=${card}")
  endforeach()
  set(fatbin "${CMAKE_CURRENT_BINARY_DIR}/cuda/${key}.fatbin")
  add_custom_command(
    OUTPUT "${fatbin}"
    COMMAND "${CMAKE_COMMAND}" -E make_directory "${CMAKE_CURRENT_BINARY_DIR}/cuda"
    COMMAND "${RTACCEL_NVCC}" -std=c++17 -fmad=false -I "${PROJECT_SOURCE_DIR}/kernels" -fatbin ${gencode} -o "${fatbin}" "${form}"
    DEPENDS "${form}" ${RTACCEL_CUDA_SOURCES} ${RTACCEL_CUDA_OF_OPERATORS}
    VERBATIM)
  list(APPEND RTACCEL_FATBINS "${fatbin}")
endforeach()
add_custom_target(rtaccel_cuda ALL DEPENDS ${RTACCEL_FATBINS})
install(FILES ${RTACCEL_FATBINS} DESTINATION rtaccel/cuda)
