# A toolchain file: `zig c++` of the ziglang package, for the architecture and the glibc of RTACCEL_ZIG_TARGET, such as
# x86_64-linux-gnu.2.28. libc++ comes with it and is linked statically, so a wheel needs no C++ library of the system.
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES RTACCEL_ZIG RTACCEL_ZIG_TARGET)
string(REGEX MATCH "^[^-]+" processor "${RTACCEL_ZIG_TARGET}")
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR "${processor}")
set(CMAKE_CXX_COMPILER "${RTACCEL_ZIG}" c++)
set(CMAKE_C_COMPILER "${RTACCEL_ZIG}" cc)
set(CMAKE_CXX_COMPILER_TARGET "${RTACCEL_ZIG_TARGET}")
set(CMAKE_C_COMPILER_TARGET "${RTACCEL_ZIG_TARGET}")
