# The PTX engine, which is all that is not the API's; included by csrc/Makefile. ISA files
# are compiled once for each of FDCPU_ISAS with -DFDCPU_ISA=<isa> and FDCPU_FLAGS_<isa>.
FDCPU_PER_ISA := exec.c exec_mem.c
FDCPU_CFLAGS := -ffp-contract=off -fno-strict-aliasing -fno-math-errno
# handlers end by jumping to the next one; vector loops want -O3
FDCPU_ISA_CFLAGS := -O3 -fno-trapping-math -fno-stack-protector
FDCPU_SLOW_CFLAGS := -frounding-math		# exec_slow.c and cvt.c
ifeq ($(shell uname -m),x86_64)
FDCPU_ISAS := v2 v3 v4
else
FDCPU_ISAS := plain
endif
FDCPU_FLAGS_v2 := -march=x86-64-v2
FDCPU_FLAGS_v3 := -march=x86-64-v3 -mprefer-vector-width=256
FDCPU_FLAGS_v4 := -march=x86-64-v4 -mprefer-vector-width=512
FDCPU_FLAGS_plain :=
