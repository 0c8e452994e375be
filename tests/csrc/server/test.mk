# The worker is tested with the CPU device as its driver.
TEST_CFLAGS_server = -DDRIVER='"$(LIB)/libfdcpu.so"'
$(TEST)/server/test_serve $(TEST)/server/test_mangled $(TEST)/server/test_limits \
$(TEST)/server/test_replay $(TEST)/server/test_capture $(TEST)/server/test_reset \
$(TEST)/server/test_trunk $(TEST)/server/test_shares \
$(TEST)/server/test_gate: | $(LIB)/libfdcpu.so
