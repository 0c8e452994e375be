# The tests' worker (worker.h) opens these at run time.
$(filter $(TEST)/shim/%,$(TEST_BIN)): | $(LIB)/libfdc.so $(LIB)/libfdcpu.so $(LIB)/libcuda.so.1
