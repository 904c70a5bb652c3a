# SPDX-License-Identifier: MIT
# The library itself, shared and static, from the parts' objects, and what an installation of it consists of.
include(CMakePackageConfigHelpers)

set(library_objects)
foreach(name common transport dirty kvm engine)
  list(APPEND library_objects $<TARGET_OBJECTS:${name}>)
endforeach()
set(library_packages PkgConfig::GNUTLS PkgConfig::JSONC PkgConfig::XXHASH PkgConfig::NUMA
  PkgConfig::RDMACM PkgConfig::IBVERBS)
set(export_map ${PROJECT_SOURCE_DIR}/cmake/vmferry.map)

function(library_interface target)
  # vmferry_build is how we compile, nothing that a user of the library should inherit.
  set_target_properties(${target} PROPERTIES LINK_LIBRARIES "" INTERFACE_LINK_LIBRARIES "")
  target_include_directories(${target} INTERFACE
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  set_target_properties(${target} PROPERTIES OUTPUT_NAME vmferry)
endfunction()

add_library(vmferry_shared SHARED ${library_objects})
library_interface(vmferry_shared)
target_link_libraries(vmferry_shared PRIVATE ${library_packages} Threads::Threads)
target_link_options(vmferry_shared PRIVATE -Wl,--version-script=${export_map})
if(VMFERRY_SANITIZE)
  target_link_options(vmferry_shared PRIVATE -fsanitize=${VMFERRY_SANITIZE})
else()
  # Not with sanitizers: their runtime is in the executable.
  target_link_options(vmferry_shared PRIVATE -Wl,--no-undefined)
endif()
set_target_properties(vmferry_shared PROPERTIES
  LINKER_LANGUAGE C
  EXPORT_NAME vmferry
  VERSION ${PROJECT_VERSION}
  SOVERSION ${PROJECT_VERSION_MAJOR}
  LINK_DEPENDS ${export_map})
add_library(vmferry::vmferry ALIAS vmferry_shared)

# One object whose hidden symbols are local, so that the archive cannot clash with names of the program it goes into.
set(static_object ${CMAKE_CURRENT_BINARY_DIR}/libvmferry.o)
add_custom_command(OUTPUT ${static_object}
  COMMAND ${CMAKE_LINKER} -r -o ${static_object} ${library_objects}
  COMMAND ${CMAKE_OBJCOPY} --localize-hidden ${static_object}
  DEPENDS ${library_objects}
  COMMENT "Linking libvmferry.o"
  COMMAND_EXPAND_LISTS VERBATIM)
add_library(vmferry_static STATIC ${static_object})
library_interface(vmferry_static)
set_source_files_properties(${static_object} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
target_link_libraries(vmferry_static PRIVATE ${library_packages} Threads::Threads)
set_target_properties(vmferry_static PROPERTIES LINKER_LANGUAGE C EXPORT_NAME static)
add_library(vmferry::static ALIAS vmferry_static)

set(package_directory ${CMAKE_INSTALL_LIBDIR}/cmake/vmferry)
install(TARGETS vmferry_shared EXPORT vmferry)
install(TARGETS vmferry_static EXPORT vmferry-static)
install(EXPORT vmferry NAMESPACE vmferry:: FILE vmferryTargets.cmake DESTINATION ${package_directory})
install(EXPORT vmferry-static NAMESPACE vmferry:: FILE vmferryStaticTargets.cmake
  DESTINATION ${package_directory})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/vmferry DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/vmferryConfig.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/vmferryConfig.cmake INSTALL_DESTINATION ${package_directory})
# Until 1.0 the interface may change with every minor version.
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/vmferryConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES
  ${CMAKE_CURRENT_BINARY_DIR}/vmferryConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/vmferryConfigVersion.cmake
  DESTINATION ${package_directory})

# Relative to the file itself, so that the installed tree can be moved.
file(RELATIVE_PATH prefix_from_pc ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
configure_file(${CMAKE_CURRENT_LIST_DIR}/vmferry.pc.in ${CMAKE_CURRENT_BINARY_DIR}/vmferry.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/vmferry.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
