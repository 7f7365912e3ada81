# The module: its memory is the page's, which puts the model where the module's own data end. A failure is a jump, which
# WebAssembly has as an exception of its own.
set(exports _rta_error _rta_error_code _rta_model_within _rta_model_memory _rta_model_close _rta_model_count
            _rta_model_tensor _rta_model_name _rta_model_batch _rta_model_streams _rta_model_step _rta_model_reset
            _rta_model_state_bytes _rta_model_save_state _rta_model_load_state)
if(PACK_EMBED)
  list(APPEND exports _${PACK_NAME}_model)
endif()
list(JOIN exports "," exports)
add_executable(pack $<TARGET_OBJECTS:pack_objects>)
set_target_properties(pack PROPERTIES OUTPUT_NAME "${PACK_NAME}" SUFFIX ".wasm")
target_link_options(pack PRIVATE --no-entry -O3 -sSTANDALONE_WASM -sSUPPORT_LONGJMP=wasm
                    -sALLOW_MEMORY_GROWTH -sINITIAL_HEAP=65536 -sSTACK_SIZE=65536 "-sEXPORTED_FUNCTIONS=${exports}" "LINKER:--export=__heap_base"
                    "LINKER:-Map=${PROJECT_BINARY_DIR}/probe.map")
