# The driver API of the CPU device: what lies around the engine.
CPUDEV_API_SRC := $(sort $(wildcard cpudev/api_*.c)) cpudev/fatbin.c
CPUDEV_CFLAGS :=
CPUDEV_LIBS := -ldl
