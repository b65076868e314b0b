# CUDA_SOURCES: what _core is made of beside the CPU: the CUDA kernels, or the stub.
set(CUDA_SOURCES csrc/cuda_stub.cpp)
if(NOT PATHTUNE_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(HAS_CUDA_COMPILER TRUE)
  elseif(PATHTUNE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "PATHTUNE_CUDA=ON, but no CUDA compiler was found: install a CUDA toolkit from 12.4 on, or "
      "the PyPI wheels nvidia-cuda-nvcc, nvidia-cuda-crt, nvidia-nvvm, nvidia-cuda-runtime and nvidia-cuda-cccl, and "
      "name their nvcc in the environment variable CUDACXX")
  endif()
endif()

if(HAS_CUDA_COMPILER)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(PATHTUNE_CHOOSES_ARCHITECTURES TRUE)
    set(CMAKE_CUDA_ARCHITECTURES 80-real)  # for the compiler check; see below
  endif()
  enable_language(CUDA)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.4)
    message(FATAL_ERROR "CUDA ${CMAKE_CUDA_COMPILER_VERSION} was found, pathtune needs 12.4 or newer "
      "(PATHTUNE_CUDA=OFF builds without it)")
  endif()
  if(PATHTUNE_CHOOSES_ARCHITECTURES)
    # A cubin for each, and PTX of the last for what comes after; older toolkits know fewer.
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
      set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
    else()
      set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100-real 120)
    endif()
  endif()
  file(GLOB CUDA_KERNELS CONFIGURE_DEPENDS csrc/*/cuda*.cu)
  set(CUDA_SOURCES csrc/cuda_runtime.cu csrc/cuda_bindings.cpp ${CUDA_KERNELS})
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  # A warning or a register spill is an error.
  set_source_files_properties(csrc/cuda_runtime.cu ${CUDA_KERNELS} PROPERTIES COMPILE_OPTIONS
    "-Werror=all-warnings;-Xptxas=-warn-spills;-Xptxas=-Werror;--expt-relaxed-constexpr;-I${CMAKE_CURRENT_SOURCE_DIR}/csrc")
endif()
