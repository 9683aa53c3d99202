# ascendc_library(TARGET SHARED SOURCE...): CANN's function of this name, for the software NPU. The
# Ascend C sources are compiled by the host compiler against the kernel_operator.h of this folder.
set(SOFTNPU_ASCENDC_DIR "${CMAKE_CURRENT_LIST_DIR}")
find_package(Python3 REQUIRED COMPONENTS Interpreter)

file(GLOB SOFTNPU_ASCENDC_SOURCES CONFIGURE_DEPENDS "${SOFTNPU_ASCENDC_DIR}/*.cpp")
add_library(softnpu_ascendc SHARED ${SOFTNPU_ASCENDC_SOURCES})
target_include_directories(softnpu_ascendc PUBLIC "${SOFTNPU_ASCENDC_DIR}")
target_link_libraries(softnpu_ascendc PUBLIC ascendcl)
# The same bytes are read as several types, as on the machine; products are rounded before they are added.
target_compile_options(softnpu_ascendc PUBLIC -O3 -march=native -fno-strict-aliasing -fwrapv -ffp-contract=off)

function(ascendc_library target type)
  set(include "${CMAKE_BINARY_DIR}/include/${target}")
  set(stubs)
  foreach(source ${ARGN})
    get_filename_component(source "${source}" ABSOLUTE)
    get_filename_component(name "${source}" NAME_WE)
    set(stub "${CMAKE_CURRENT_BINARY_DIR}/${target}_stubs/${name}.cpp")
    add_custom_command(
      OUTPUT "${stub}"
      COMMAND "${Python3_EXECUTABLE}" "${SOFTNPU_ASCENDC_DIR}/extract_kernels.py" "${source}"
              --stub "${stub}" --include-dir "${include}"
      DEPENDS "${source}" "${SOFTNPU_ASCENDC_DIR}/extract_kernels.py"
      COMMENT "Launch stub of ${name}"
      VERBATIM)
    list(APPEND stubs "${stub}")
  endforeach()
  add_library(${target} ${type} ${stubs})
  target_include_directories(${target} PUBLIC "${include}")
  target_link_libraries(${target} PUBLIC softnpu_ascendc)
endfunction()
