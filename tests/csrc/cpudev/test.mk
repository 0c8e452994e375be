# The engine alone: nothing of the driver API, nothing generated.
TEST_LIBS_cpudev = $(LIB)/libfdcengine.a -lpthread
TEST_CFLAGS_cpudev = -Icpudev
