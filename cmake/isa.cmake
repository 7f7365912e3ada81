# The instruction sets of the native core, and the source files that each of them compiles.
#
# A set is a header kernels/_simd/simd_<set>.h, a row of kernels/_core/isa.def, and here its compiler flags. Where it
# only adds a dot product to another set, RTACCEL_ADDS_<set> names that product, and only kernels that use it are
# compiled for the set: the others would come out the same again.

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(RTACCEL_ISAS portable avx2 avxvnni avx512 avx512vnni avx512bf16 avx512vbmi amx)
  set(RTACCEL_FLAGS_avx2 -mavx2 -mfma)
  set(RTACCEL_FLAGS_avxvnni ${RTACCEL_FLAGS_avx2} -mavxvnni)
  set(RTACCEL_FLAGS_avx512 ${RTACCEL_FLAGS_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl
                           -mprefer-vector-width=512)
  set(RTACCEL_FLAGS_avx512vnni ${RTACCEL_FLAGS_avx512} -mavx512vnni)
  set(RTACCEL_FLAGS_avx512bf16 ${RTACCEL_FLAGS_avx512vnni} -mavx512bf16)
  set(RTACCEL_FLAGS_avx512vbmi ${RTACCEL_FLAGS_avx512vnni} -mavx512vbmi)
  set(RTACCEL_FLAGS_amx ${RTACCEL_FLAGS_avx512vnni} -mamx-tile -mamx-int8)
  set(RTACCEL_ADDS_avxvnni int8)
  set(RTACCEL_ADDS_avx512vnni int8)
  set(RTACCEL_ADDS_avx512bf16 bf16)
  set(RTACCEL_ADDS_avx512vbmi permute)
  set(RTACCEL_ADDS_amx tiles)  # has files of its own alone
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64|ARM64")
  set(RTACCEL_ISAS portable neon neondot)
  set(RTACCEL_FLAGS_neon -march=armv8-a)
  set(RTACCEL_FLAGS_neondot -march=armv8.2-a+dotprod)
  if(RTACCEL_ZIG)  # release/zig.cmake: zig has names of its own
    set(RTACCEL_FLAGS_neon -mcpu=generic)
    set(RTACCEL_FLAGS_neondot -mcpu=generic+v8_2a+dotprod)
  endif()
  set(RTACCEL_ADDS_neondot int8)
else()
  set(RTACCEL_ISAS portable)
endif()

set(RTACCEL_ONLY "" CACHE STRING "Compile these instruction sets alone, separated by semicolons (default: all)")
if(RTACCEL_ONLY)
  set(left_out ${RTACCEL_ISAS})
  list(REMOVE_ITEM left_out ${RTACCEL_ONLY})
  list(REMOVE_ITEM RTACCEL_ISAS ${left_out})
endif()

# Sets ${result} to the sources of the core: every kernels/*/*.cc, and for every kernels/*/cpu_*.h that defines
# register_kernels one file per instruction set. A hand-written file that is meant for one set ends in _<set>.cc: it gets
# the set's flags, and is left out on machines of another kind.
function(rtaccel_kernel_sources result)
  set(folder "${PROJECT_SOURCE_DIR}/kernels")
  file(GLOB sources CONFIGURE_DEPENDS "${folder}/*/*.cc")
  list(FILTER sources EXCLUDE REGEX "_(avx|amx|neon)[a-z0-9]*\\.cc$")
  foreach(isa ${RTACCEL_ISAS})
    file(GLOB own CONFIGURE_DEPENDS "${folder}/*/*_${isa}.cc")
    if(own AND NOT isa STREQUAL "portable")
      list(APPEND sources ${own})
      set_source_files_properties(${own} PROPERTIES COMPILE_OPTIONS "${RTACCEL_FLAGS_${isa}}")
    endif()
  endforeach()
  file(GLOB headers CONFIGURE_DEPENDS RELATIVE "${folder}" "${folder}/*/cpu_*.h")
  if(RTACCEL_OPS)  # of the others only what declares no kernels: operators share it
    list(JOIN RTACCEL_OPS "|" wanted)
    list(FILTER headers INCLUDE REGEX "^(${wanted})/")
    set(others ${sources})
    list(FILTER others INCLUDE REGEX "/cpu_[^/]*$|/_persistent/")
    list(FILTER others EXCLUDE REGEX "/(${wanted})/")
    list(REMOVE_ITEM sources ${others})
  endif()
  foreach(header ${headers})
    rtaccel_compile_per_isa(generated "${folder}" "${header}")
    list(APPEND sources ${generated})
  endforeach()
  set(${result} ${sources} PARENT_SCOPE)
endfunction()

# Sets ${result} to the generated files of one header, none where it does not define register_kernels. A header that
# uses dot products says so in a comment line of its own: "// Dot products: int8" (S::dot), "bf16" (S::dot_bf16) or both;
# "permute" asks for the set with the permutations of bytes too.
function(rtaccel_compile_per_isa result folder header)
  set(sources)
  set(path "${folder}/${header}")
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${path}")
  file(STRINGS "${path}" registers REGEX "void register_kernels\\(")
  file(STRINGS "${path}" dots REGEX "^// Dot products: ")
  if(registers)
    foreach(isa ${RTACCEL_ISAS})
      if(RTACCEL_ADDS_${isa} AND NOT dots MATCHES "${RTACCEL_ADDS_${isa}}")
        continue()
      endif()
      string(REPLACE ".h" "_${isa}.cc" name "${header}")
      set(generated "${PROJECT_BINARY_DIR}/kernels/${name}")
      configure_file("${PROJECT_SOURCE_DIR}/kernels/_simd/cpu_isa.cc.in" "${generated}" @ONLY)
      set_source_files_properties("${generated}" PROPERTIES COMPILE_OPTIONS "${RTACCEL_FLAGS_${isa}}")
      list(APPEND sources "${generated}")
    endforeach()
  endif()
  set(${result} ${sources} PARENT_SCOPE)
endfunction()
