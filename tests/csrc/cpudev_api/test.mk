# These are programs on a driver: they link with the CPU device as they would with
# libcuda. (Not with the archive: refusals in it are weak and could win.)
TEST_LIBS_cpudev_api = -L$(LIB) -lfdcpu -Wl,-rpath,$(LIB)
TEST_CFLAGS_cpudev_api = -I$(GEN)
$(filter $(TEST)/cpudev_api/%,$(TEST_BIN)): | $(LIB)/libfdcpu.so
