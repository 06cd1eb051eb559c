/* A library that answers as libnvidia-ml.so.1 for one graphics card that does not exist.
 *
 * Time moves only by fake_advance (virtual), or with the wall clock when FAKE_NVML_WALL is set.
 *
 * Physics, chosen to share no form with the laws that are fitted:
 *   voltage   v = v_low + v_span * s^1.3 / (s^1.3 + 0.55),  s = softplus((f - f_bend) / f_soft)
 *   switching charge * v * v * (1 + short * v) * f * (gate + (1 - gate) * load)
 *   leakage   leak * v * exp(v / 0.34) * 2^((T - 25) / 26)
 *   board     fixed + fan * ((T - 30) / 50)^3 above 30 C + memory share of the load
 *   heat      two bodies in series: die (fast) and cooler (slow)
 * Sensor: ticks of 96 to 112 ms, drawn; a gain of a few percent as real cards have; the energy counter moves once a tick.
 *
 * FAKE_NVML_SEED  which card                  FAKE_NVML_STATE  file of the locks, so that they outlive a process
 * FAKE_NVML_FAIL  symbol=code,symbol=code     FAKE_NVML_WALL   follow the wall clock
 */
#define _GNU_SOURCE
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int ret_t;
typedef unsigned int u32;
typedef unsigned long long u64;
enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, NO_PERMISSION = 4, TOO_SMALL = 7, NOT_FOUND = 6 };

#define STEP_S 0.002
#define MAX_FAILS 64

static struct {
    double v_low, v_span, f_bend, f_soft, charge, shorted, gate;
    double leak, fixed, fan, memory_w, limit_w, gain;
    double r_die, r_cooler, tau_die, tau_cooler, t_max, ambient;
    u32 low_mhz, high_mhz, step_mhz, memory_mhz, idle_memory_mhz, cores, tick_steps;
    u64 seed;
} card;

static struct {
    double now_s, load, die_c, cooler_c, energy_j, tick_start_j;
    double instant_w, average_w, history_w[10], cap_ns, heat_ns, load_energy_j;
    u64 steps, counter_mj;
    u32 actual_mhz, lock_mhz, memory_lock_mhz, reasons, arbitrate_above_mhz, arbitrate_to_mhz;
    int ticks, others, mig;
    double counter_cost_s;
    long counter_reads;
    int counter_frozen;
    double counter_ahead_j;
} now;

static struct { char name[64]; int code; long after; long calls; } fails[MAX_FAILS];
static int n_fails, ready;
static double wall_start_s;
static u64 random_state;

static double uniform(double low, double high) {
    random_state += 0x9E3779B97F4A7C15ull;
    u64 z = random_state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    return low + (high - low) * (double)(z >> 11) / 9007199254740992.0;
}

static void draw_card(u64 seed) {
    random_state = seed;
    card.seed = seed;
    card.v_low = uniform(0.62, 0.74);
    card.v_span = uniform(0.35, 0.60);
    card.f_bend = uniform(1300, 1900);
    card.f_soft = uniform(180, 380);
    card.shorted = uniform(0.0, 0.15);
    card.gate = uniform(0.05, 0.14);
    card.charge = uniform(0.028, 0.044);
    card.leak = uniform(0.25, 1.1);
    card.fixed = uniform(6, 16);
    card.fan = uniform(0.3, 1.5);
    card.memory_w = uniform(4, 12);
    card.gain = 1.0 + uniform(-0.04, 0.04);
    card.r_die = uniform(0.08, 0.12);
    card.r_cooler = uniform(0.10, 0.18);
    card.tau_die = 0.8;
    card.tau_cooler = uniform(12, 20);
    card.ambient = uniform(22, 30);
    card.t_max = 87;
    card.limit_w = 1e6;
    card.tick_steps = (u32)uniform(48, 57);
    card.low_mhz = 210;
    card.high_mhz = 2535;
    card.step_mhz = 15;
    card.memory_mhz = 8751;
    card.idle_memory_mhz = 405;
    card.cores = 4352;
}

static double volts(double mhz) {
    double x = (mhz - card.f_bend) / card.f_soft;
    double s = x > 30 ? x : log1p(exp(x));
    double p = pow(s, 1.3);
    return card.v_low + card.v_span * p / (p + 0.55 * 8.0);
}

static double watts(double mhz, double load, double die_c) {
    double v = volts(mhz);
    double switching = card.charge * v * v * (1 + card.shorted * v) * mhz * (card.gate + (1 - card.gate) * load);
    double leakage = card.leak * v * exp(v / 0.34) * exp2((die_c - 25) / 26);
    double above = die_c > 30 ? (die_c - 30) / 50 : 0;
    double memory = load > 0 ? 2 + card.memory_w * load : 1;
    return card.fixed + switching + leakage + card.fan * above * above * above + memory;
}

static u32 wanted_mhz(void) {
    if (now.lock_mhz) {
        if (now.arbitrate_above_mhz && now.lock_mhz > now.arbitrate_above_mhz) return now.arbitrate_to_mhz;
        return now.lock_mhz;
    }
    return now.load > 0 ? card.high_mhz : card.low_mhz;
}

static void read_locks(void) {
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return;
    if (fscanf(file, "%u %u", &now.lock_mhz, &now.memory_lock_mhz) != 2) now.lock_mhz = now.memory_lock_mhz = 0;
    fclose(file);
}

static void write_locks(void) {
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    fprintf(file, "%u %u\n", now.lock_mhz, now.memory_lock_mhz);
    fclose(file);
}

static void end_tick(void) {
    now.instant_w = (now.energy_j - now.tick_start_j) / (card.tick_steps * STEP_S) * card.gain;
    now.tick_start_j = now.energy_j;
    now.history_w[now.ticks++ % 10] = now.instant_w;
    int n = now.ticks < 10 ? now.ticks : 10;
    now.average_w = 0;
    for (int i = 0; i < n; i++) now.average_w += now.history_w[i] / n;
    if (!now.counter_frozen) now.counter_mj = (u64)llround((now.energy_j + now.counter_ahead_j) * card.gain * 1000.0);
}

static void govern(void) {
    u32 wanted = wanted_mhz();
    int capped = watts(wanted, now.load, now.die_c) > card.limit_w && now.load > 0;
    int hot = now.die_c > card.t_max;
    u32 mhz = wanted;
    if (capped)
        while (mhz > card.low_mhz && watts(mhz, now.load, now.die_c) > card.limit_w) mhz -= card.step_mhz;
    if (hot) mhz = mhz / 2 > card.low_mhz ? card.low_mhz + (mhz / 2 - card.low_mhz) / card.step_mhz * card.step_mhz : card.low_mhz;
    now.actual_mhz = mhz;
    now.reasons = (now.load > 0 ? 0 : 0x1) | (now.lock_mhz ? 0x2 : 0) | (capped ? 0x4 : 0) | (hot ? 0x20 : 0);
}

static void step(void) {
    govern();
    if (now.reasons & 0x4) now.cap_ns += STEP_S * 1e9;
    if (now.reasons & 0x20) now.heat_ns += STEP_S * 1e9;
    double p = watts(now.actual_mhz, now.load, now.die_c);
    now.energy_j += p * STEP_S;
    if (now.load > 0) now.load_energy_j += p * STEP_S;
    now.cooler_c += (card.ambient + p * card.r_cooler - now.cooler_c) * STEP_S / card.tau_cooler;
    now.die_c += (now.cooler_c + p * card.r_die - now.die_c) * STEP_S / card.tau_die;
    now.steps++;
    if (now.steps % card.tick_steps == 0) end_tick();
}

static double wall_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void move_to(double target_s) {
    while ((now.steps + 1) * STEP_S <= target_s + 1e-9) step();
    now.now_s = target_s;
}

static void follow_wall(void) {
    if (getenv("FAKE_NVML_WALL")) move_to(wall_s() - wall_start_s);
}

/* ---- what a test says to the card ---- */

void fake_reset(u64 seed) {
    memset(&now, 0, sizeof now);
    n_fails = 0;
    draw_card(seed);
    now.die_c = card.ambient + 8;
    now.cooler_c = card.ambient + 5;
    wall_start_s = wall_s();
    read_locks();
    govern();
    for (u32 i = 0; i < card.tick_steps; i++) step();
    wall_start_s -= now.now_s = now.steps * STEP_S;
    ready = 1;
}

void fake_fail(const char *symbol, int code, long after) {
    for (int i = 0; i < n_fails; i++)
        if (!strcmp(fails[i].name, symbol)) { fails[i].code = code; fails[i].after = after; fails[i].calls = 0; return; }
    if (n_fails == MAX_FAILS) abort();
    snprintf(fails[n_fails].name, sizeof fails[0].name, "%s", symbol);
    fails[n_fails].code = code;
    fails[n_fails].after = after;
    fails[n_fails++].calls = 0;
}

void fake_advance(double seconds) { move_to(now.now_s + seconds); }
void fake_load(double load) { follow_wall(); now.load = load; }
double fake_now(void) { follow_wall(); return now.now_s; }
double fake_true_energy(void) { follow_wall(); return now.energy_j; }
double fake_tick(void) { return card.tick_steps * STEP_S; }
double fake_gain(void) { return card.gain; }
u32 fake_locked_mhz(void) { read_locks(); return now.lock_mhz; }
void fake_power_limit(double limit_w) { card.limit_w = limit_w; }
void fake_temperature_limit(double t_max_c) { card.t_max = t_max_c; }
void fake_arbitrate(u32 above_mhz, u32 to_mhz) { now.arbitrate_above_mhz = above_mhz; now.arbitrate_to_mhz = to_mhz; }
void fake_others(int count) { now.others = count; }
void fake_mig(int on) { now.mig = on; }
void fake_counter_cost(double seconds) { now.counter_cost_s = seconds; }
void fake_freeze_counter(int on) { now.counter_frozen = on; }
void fake_counter_jump(double joules) { now.counter_ahead_j += joules; }
long fake_counter_reads(void) { return now.counter_reads; }

/* Sensor's truth in a steady state at a clock: heat balance solved by iteration, times the gain. */
double fake_steady_watts(u32 mhz, double load) {
    double die = card.ambient + 10, p = 0;
    for (int i = 0; i < 200; i++) {
        p = watts(mhz, load, die);
        die += 0.3 * (card.ambient + p * (card.r_cooler + card.r_die) - die);
    }
    return p * card.gain;
}

/* ---- the vendor's interface ---- */

static void get_ready(void) {
    if (ready) return;
    const char *seed = getenv("FAKE_NVML_SEED");
    fake_reset(seed ? strtoull(seed, NULL, 10) : 1);
    char text[1024];
    const char *given = getenv("FAKE_NVML_FAIL");
    if (!given) return;
    snprintf(text, sizeof text, "%s", given);
    for (char *item = strtok(text, ","); item; item = strtok(NULL, ",")) {
        char *equals = strchr(item, '=');
        if (!equals) continue;
        *equals = 0;
        fake_fail(item, atoi(equals + 1), 0);
    }
}

static ret_t failing(const char *symbol) {
    get_ready();
    follow_wall();
    for (int i = 0; i < n_fails; i++)
        if (!strcmp(fails[i].name, symbol) && fails[i].calls++ >= fails[i].after) return fails[i].code;
    return OK;
}

#define BEGIN() do { ret_t code = failing(__func__); if (code) return code; } while (0)

static ret_t put_text(char *to, u32 size, const char *text) {
    if (strlen(text) >= size) return TOO_SMALL;
    strcpy(to, text);
    return OK;
}

ret_t nvmlInitWithFlags(u32 flags) { (void)flags; BEGIN(); return OK; }
ret_t nvmlInit_v2(void) { BEGIN(); return OK; }
ret_t nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(ret_t code) { static char text[32]; snprintf(text, sizeof text, "fake error %d", code); return text; }
ret_t nvmlSystemGetDriverVersion(char *to, u32 size) { BEGIN(); return put_text(to, size, "595.00.fake"); }
ret_t nvmlDeviceGetCount_v2(u32 *count) { BEGIN(); *count = 1; return OK; }
ret_t nvmlDeviceGetHandleByIndex_v2(u32 index, void **device) {
    BEGIN();
    if (index) return INVALID;
    *device = &card;
    return OK;
}
ret_t nvmlDeviceGetName(void *d, char *to, u32 size) { (void)d; BEGIN(); return put_text(to, size, "NVIDIA Fake RTX"); }
ret_t nvmlDeviceGetUUID(void *d, char *to, u32 size) {
    (void)d;
    BEGIN();
    char text[64];
    snprintf(text, sizeof text, "GPU-fa4e0000-0000-4000-8000-%012llx", card.seed & 0xffffffffffffull);
    return put_text(to, size, text);
}
ret_t nvmlDeviceGetIndex(void *d, u32 *index) { (void)d; BEGIN(); *index = 0; return OK; }
ret_t nvmlDeviceGetArchitecture(void *d, u32 *value) { (void)d; BEGIN(); *value = 8; return OK; }
ret_t nvmlDeviceGetNumGpuCores(void *d, u32 *value) { (void)d; BEGIN(); *value = card.cores; return OK; }
ret_t nvmlDeviceGetAttributes_v2(void *d, u32 *attributes) { (void)d; BEGIN(); (void)attributes; return UNSUPPORTED; }
ret_t nvmlDeviceGetMemoryInfo(void *d, u64 *memory) {
    (void)d;
    BEGIN();
    memory[0] = 16ull << 30; memory[1] = 15ull << 30; memory[2] = 1ull << 30;
    return OK;
}
ret_t nvmlDeviceGetMigMode(void *d, u32 *current, u32 *pending) {
    (void)d;
    BEGIN();
    if (now.mig < 0) return UNSUPPORTED;
    *current = *pending = (u32)now.mig;
    return OK;
}
ret_t nvmlDeviceGetEnforcedPowerLimit(void *d, u32 *mw) {
    (void)d; BEGIN(); *mw = card.limit_w > 1e5 ? 350000 : (u32)(card.limit_w * 1000); return OK;
}
ret_t nvmlDeviceGetPowerManagementLimit(void *d, u32 *mw) { return nvmlDeviceGetEnforcedPowerLimit(d, mw); }
ret_t nvmlDeviceGetPowerManagementDefaultLimit(void *d, u32 *mw) { (void)d; BEGIN(); *mw = 165000; return OK; }
ret_t nvmlDeviceGetPowerManagementLimitConstraints(void *d, u32 *low_mw, u32 *high_mw) {
    (void)d; BEGIN(); *low_mw = 100000; *high_mw = 165000; return OK;
}
/* Asked by other tools only. */
ret_t nvmlDeviceGetPersistenceMode(void *d, u32 *on) { (void)d; BEGIN(); *on = 0; return OK; }
ret_t nvmlDeviceGetAutoBoostedClocksEnabled(void *d, u32 *a, u32 *b) { (void)d; (void)a; (void)b; BEGIN(); return UNSUPPORTED; }
ret_t nvmlDeviceGetDefaultApplicationsClock(void *d, u32 type, u32 *mhz) { (void)d; (void)type; (void)mhz; BEGIN(); return UNSUPPORTED; }
ret_t nvmlDeviceGetPciInfo_v3(void *d, void *pci) { (void)d; (void)pci; BEGIN(); return OK; }
ret_t nvmlDeviceGetPowerUsage(void *d, u32 *mw) { (void)d; BEGIN(); *mw = (u32)(now.average_w * 1000); return OK; }
ret_t nvmlDeviceGetTotalEnergyConsumption(void *d, u64 *mj) {
    (void)d;
    BEGIN();
    now.counter_reads++;
    *mj = now.counter_mj;
    if (now.counter_cost_s > 0) fake_advance(now.counter_cost_s);
    return OK;
}
ret_t nvmlDeviceGetTemperature(void *d, u32 sensor, u32 *c) { (void)d; (void)sensor; BEGIN(); *c = (u32)lround(now.die_c); return OK; }
ret_t nvmlDeviceGetClockInfo(void *d, u32 type, u32 *mhz) {
    (void)d;
    BEGIN();
    u32 memory = now.memory_lock_mhz ? now.memory_lock_mhz : now.load > 0 ? card.memory_mhz : card.idle_memory_mhz;
    govern();
    *mhz = type == 2 ? memory : now.actual_mhz;
    return OK;
}
ret_t nvmlDeviceGetCurrentClocksEventReasons(void *d, u64 *reasons) { (void)d; BEGIN(); *reasons = now.reasons; return OK; }
ret_t nvmlDeviceGetCurrentClocksThrottleReasons(void *d, u64 *reasons) { (void)d; BEGIN(); *reasons = now.reasons; return OK; }
ret_t nvmlDeviceGetSupportedMemoryClocks(void *d, u32 *count, u32 *mhz) {
    (void)d;
    BEGIN();
    u32 size = *count;
    *count = 3;
    if (!mhz || size < 3) return TOO_SMALL;
    mhz[0] = 9001; mhz[1] = card.memory_mhz; mhz[2] = card.idle_memory_mhz;
    return OK;
}
ret_t nvmlDeviceGetSupportedGraphicsClocks(void *d, u32 memory_mhz, u32 *count, u32 *mhz) {
    (void)d;
    BEGIN();
    u32 size = *count, top = memory_mhz == card.idle_memory_mhz ? 420 : card.high_mhz;
    *count = (top - card.low_mhz) / card.step_mhz + 1;
    if (!mhz || size < *count) return TOO_SMALL;
    for (u32 i = 0; i < *count; i++) mhz[i] = top - i * card.step_mhz;
    return OK;
}
ret_t nvmlDeviceSetGpuLockedClocks(void *d, u32 low_mhz, u32 high_mhz) {
    (void)d;
    BEGIN();
    if (low_mhz > high_mhz) return INVALID;
    now.lock_mhz = high_mhz;
    write_locks();
    return OK;
}
ret_t nvmlDeviceResetGpuLockedClocks(void *d) { (void)d; BEGIN(); now.lock_mhz = 0; write_locks(); return OK; }
ret_t nvmlDeviceSetMemoryLockedClocks(void *d, u32 low_mhz, u32 high_mhz) {
    (void)d; (void)low_mhz; BEGIN(); now.memory_lock_mhz = high_mhz; write_locks(); return OK;
}
ret_t nvmlDeviceResetMemoryLockedClocks(void *d) { (void)d; BEGIN(); now.memory_lock_mhz = 0; write_locks(); return OK; }

typedef struct { u32 pid; u64 used; u32 gpu_instance, compute_instance; } process_t;
ret_t nvmlDeviceGetComputeRunningProcesses_v3(void *d, u32 *count, process_t *found) {
    (void)d;
    BEGIN();
    u32 size = *count, n = (u32)now.others;
    *count = n;
    if (!n) return OK;
    if (!found || size < n) return TOO_SMALL;
    for (u32 i = 0; i < n; i++) found[i] = (process_t){ 400000 + i, 1ull << 28, 0, 0 };
    return OK;
}

typedef struct {
    u32 field, scope;
    long long timestamp_us, latency_us;
    int type, code;
    union { double d; u32 u; u64 l; } value;
} field_t;

ret_t nvmlDeviceGetFieldValues(void *d, int count, field_t *fields) {
    (void)d;
    BEGIN();
    for (int i = 0; i < count; i++) {
        field_t *f = &fields[i];
        char name[24];
        snprintf(name, sizeof name, "field %u", f->field);
        f->timestamp_us = (long long)(now.now_s * 1e6);
        f->code = failing(name);
        f->type = 3;
        switch (f->field) {
        case 83: f->value.l = now.counter_mj; break;
        case 185: f->type = 1; f->value.u = (u32)(now.average_w * 1000); break;
        case 186: f->type = 1; f->value.u = (u32)(now.instant_w * 1000); break;
        case 74: f->value.l = (u64)now.cap_ns; break;
        case 269: f->value.l = (u64)now.heat_ns; break;
        case 270: case 271: f->value.l = 0; break;
        default: f->code = f->code ? f->code : UNSUPPORTED;
        }
    }
    return OK;
}
