# macOS by `zig c++`: what its linker takes in place of what Apple's does. It signs what it links, so that nothing may be
# changed afterwards.
add_compile_options(-fvisibility-global-new-delete=force-hidden)  # kernels/_system/new_darwin.cc
# A library in place of a bundle. Python loads both alike.
set(CMAKE_SHARED_MODULE_CREATE_CXX_FLAGS "-dynamiclib -Wl,-headerpad_max_install_names")

# In place of nanobind's list of Python's symbols: whatever no library has is looked for when the module is loaded.
# release/macos.py looks at which these are.
function(rtaccel_python_is_found_later module)
  set_target_properties(${module} PROPERTIES LINK_OPTIONS "-undefined;dynamic_lookup;-Wl,-dead_strip;-Wl,-x;-Wl,-S")
endfunction()
