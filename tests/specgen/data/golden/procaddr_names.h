/* made by csrc/specgen from csrc/spec/; do not edit */
/* { name, since, per thread, symbol, function }, sorted */
{ "cuLaunchHostFunc", 10000, 0, "cuLaunchHostFunc", (void *)cuLaunchHostFunc },
{ "cuLaunchHostFunc", 10000, 1, "cuLaunchHostFunc_ptsz", (void *)cuLaunchHostFunc_ptsz },
{ "cuMemsetD8Async", 3020, 0, "cuMemsetD8Async", (void *)cuMemsetD8Async },
{ "cuMemsetD8Async", 7000, 1, "cuMemsetD8Async_ptsz", (void *)cuMemsetD8Async_ptsz },
{ "cuModuleGetGlobal", 2000, 0, "cuModuleGetGlobal", (void *)cuModuleGetGlobal },
{ "cuModuleGetGlobal", 3020, 0, "cuModuleGetGlobal_v2", (void *)cuModuleGetGlobal_v2 },
{ "cuStreamCreate", 2000, 0, "cuStreamCreate", (void *)cuStreamCreate },
