/* libnvidia-ml.so.1 of a machine without a driver: what a test machine with a card shows to tests that are not for it. */
int nvmlInit_v2(void) { return 9; }
int nvmlInitWithFlags(unsigned int flags) { (void)flags; return 9; }
int nvmlShutdown(void) { return 1; }
const char *nvmlErrorString(int code) { (void)code; return "Driver Not Loaded"; }
