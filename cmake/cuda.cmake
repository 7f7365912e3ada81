# Kernels in CUDA C++ by nvcc, as a fatbin that a C program loads with cuModuleLoad. Python needs none of it: there NVRTC
# compiles the same files (kernels/_gpu/cuda_nvrtc.py).
set(RTACCEL_CUDA_ARCHITECTURES "80;86;89;90;100;120" CACHE STRING "Compute capabilities, times ten, that nvcc compiles for")
find_program(RTACCEL_NVCC nvcc HINTS ENV CUDA_HOME PATH_SUFFIXES bin)

if(NOT RTACCEL_NVCC)
  message(WARNING "RTACCEL_CUDA=ON, but nvcc was not found (set CUDA_HOME): the kernels in CUDA C++ are left out")
  return()
endif()

set(RTACCEL_GENCODE "")
foreach(arch IN LISTS RTACCEL_CUDA_ARCHITECTURES)
  list(APPEND RTACCEL_GENCODE "-gencode=arch=compute_${arch},code=sm_${arch}")
endforeach()

file(GLOB_RECURSE RTACCEL_CUDA_SOURCES CONFIGURE_DEPENDS "kernels/*.cu")
file(GLOB_RECURSE RTACCEL_CUDA_HEADERS CONFIGURE_DEPENDS "kernels/_persistent/*.h" "kernels/_common/activations/*")
file(GLOB RTACCEL_CUDA_OF_OPERATORS CONFIGURE_DEPENDS "kernels/*/cuda/*.h" "kernels/*/cuda/*/*.h")
set(RTACCEL_FATBINS "")
foreach(source IN LISTS RTACCEL_CUDA_SOURCES)
  get_filename_component(stem "${source}" NAME_WE)
  set(fatbin "${CMAKE_CURRENT_BINARY_DIR}/${stem}.fatbin")
  if("${fatbin}" IN_LIST RTACCEL_FATBINS)  # of two files of one name the second has its folder's before it
    get_filename_component(folder "${source}" DIRECTORY)
    get_filename_component(folder "${folder}" NAME)
    set(fatbin "${CMAKE_CURRENT_BINARY_DIR}/${folder}_${stem}.fatbin")
  endif()
  add_custom_command(
    OUTPUT "${fatbin}"
    COMMAND "${RTACCEL_NVCC}" -std=c++17 -fmad=false -I "${PROJECT_SOURCE_DIR}/kernels" -fatbin ${RTACCEL_GENCODE} -o "${fatbin}" "${source}"
    DEPENDS "${source}" ${RTACCEL_CUDA_HEADERS} ${RTACCEL_CUDA_OF_OPERATORS}
    VERBATIM)
  list(APPEND RTACCEL_FATBINS "${fatbin}")
endforeach()
add_custom_target(rtaccel_cuda ALL DEPENDS ${RTACCEL_FATBINS})
install(FILES ${RTACCEL_FATBINS} DESTINATION rtaccel/cuda)
