/* A library that answers as NVIDIA's does, for one card whose state stands in a file that is read at each call:
   lines of a word and numbers. `error N` makes every question about the card fail with that code. A pipe beside the
   file makes counting cards hang until somebody opens it to write. */
#include <stdio.h>
#include <string.h>

typedef unsigned int uint;
typedef unsigned long long ull;
typedef struct { uint gpu, memory; } utilization_t;
typedef struct { uint version; ull total, reserved, free, used; } memory_t;
typedef struct { uint pid; ull used; uint instance, compute; } process_t;
typedef struct { uint pid; ull at; uint sm, memory, encoder, decoder; } sample_t;

enum { SUCCESS = 0, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7 };

/* The n-th line of a word: its numbers, or zero found. */
static int look(const char *word, int n, ull *a, ull *b, ull *c) {
  char line[256], name[64];
  FILE *file = fopen(STATE, "r");
  if (!file) return 0;
  while (fgets(line, sizeof line, file)) {
    ull x = 0, y = 0, z = 0;
    if (sscanf(line, "%63s %llu %llu %llu", name, &x, &y, &z) >= 2 && !strcmp(name, word) && n-- == 0) {
      if (a) *a = x;
      if (b) *b = y;
      if (c) *c = z;
      fclose(file);
      return 1;
    }
  }
  fclose(file);
  return 0;
}

static int number(const char *word, ull *value) {
  ull code = 0;
  if (look("error", 0, &code, 0, 0)) return (int)code;
  return look(word, 0, value, 0, 0) ? SUCCESS : NOT_SUPPORTED;
}

static int text(char *out, uint size, const char *value) {
  strncpy(out, value, size - 1);
  out[size - 1] = 0;
  return SUCCESS;
}

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlInitWithFlags(uint flags) { (void)flags; return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "a fake error"; }
int nvmlSystemGetDriverVersion(char *out, uint size) { return text(out, size, "570.00"); }
int nvmlDeviceGetCount_v2(uint *count) {
  FILE *hang = fopen(STATE ".hang", "r");
  if (hang) fclose(hang);
  *count = 1;
  return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(uint index, void **device) {
  ull code = 0;
  (void)index;
  *device = device;
  return look("lost", 0, &code, 0, 0) ? (int)code : SUCCESS;
}
int nvmlDeviceGetName(void *d, char *out, uint size) { (void)d; return text(out, size, "Fake RTX 4080"); }
int nvmlDeviceGetUUID(void *d, char *out, uint size) { (void)d; return text(out, size, "GPU-fake"); }
int nvmlDeviceGetPerformanceState(void *d, int *state) { (void)d; *state = 2; return SUCCESS; }

int nvmlDeviceGetUtilizationRates(void *d, utilization_t *out) {
  ull load = 0;
  int code = number("load", &load);
  (void)d;
  out->gpu = (uint)load;
  out->memory = 0;
  return code;
}

int nvmlDeviceGetMemoryInfo_v2(void *d, memory_t *out) {
  ull total = 0, used = 0;
  int code = number("total", &total);
  (void)d;
  if (code == SUCCESS) code = number("used", &used);
  out->total = total;
  out->used = used;
  out->free = total - used;
  return code;
}

int nvmlDeviceGetTemperature(void *d, int sensor, uint *out) {
  ull value = 0;
  int code = number("temperature", &value);
  (void)d; (void)sensor;
  *out = (uint)value;
  return code;
}

int nvmlDeviceGetPowerUsage(void *d, uint *out) {
  ull value = 0;
  int code = number("milliwatts", &value);
  (void)d;
  *out = (uint)value;
  return code;
}

int nvmlDeviceGetEnforcedPowerLimit(void *d, uint *out) { (void)d; *out = 320000; return SUCCESS; }

static int processes(const char *word, uint *count, process_t *out) {
  uint found = 0;
  ull pid, used;
  while (look(word, (int)found, &pid, &used, 0)) {
    if (out && found < *count) {
      out[found].pid = (uint)pid;
      out[found].used = used == 1 ? ~0ULL : used;
    }
    found++;
  }
  if (*count < found) { *count = found; return INSUFFICIENT_SIZE; }
  *count = found;
  return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *d, uint *count, process_t *out) {
  (void)d;
  return processes("compute", count, out);
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *d, uint *count, process_t *out) {
  (void)d;
  return processes("graphics", count, out);
}

/* `sample PID LOAD AT` */
int nvmlDeviceGetProcessUtilization(void *d, sample_t *out, uint *count, ull since) {
  uint found = 0, line = 0;
  ull pid, load, at;
  (void)d;
  for (; look("sample", (int)line, &pid, &load, &at); line++) {
    if (at <= since) continue;
    if (out && found < *count) {
      memset(&out[found], 0, sizeof *out);
      out[found].pid = (uint)pid;
      out[found].sm = (uint)load;
      out[found].at = at;
    }
    found++;
  }
  if (!out || *count < found) { *count = found; return INSUFFICIENT_SIZE; }
  *count = found;
  return SUCCESS;
}
