/* A TFLite delegate that stands in for libedgetpu: it takes over the nodes that edgetpu_compiler
 * writes (custom operator "edgetpu-custom-op") and computes something simple instead:
 *
 *     output[i] = (sum of all input bytes + i) & 0xff
 *
 * What it does is named by the option "mode" or, without that, by the environment variable
 * EDGED_TEST_DELEGATE, both read when the delegate is created:
 *
 *     ok                   as above; the default
 *     no_device            creating returns NULL without a word, as libedgetpu does when no
 *                          accelerator answers or another process has it
 *     silent_null          the same
 *     null_with_message    creating returns NULL and reports why
 *     prepare_error        the kernel does not prepare: libedgetpu older than the model
 *     invoke_error         every invoke fails
 *     invoke_error_after:N invoke N, counted from 1, and all later ones fail
 *     hang_after:N         invoke N never returns
 *     abort_after:N        invoke N ends the process, as libedgetpu does when USB is unplugged
 *     segfault_after:N     invoke N ends the process with SIGSEGV
 *     slow:MS              every invoke takes MS milliseconds longer
 *     leak:KB              every invoke keeps KB more of memory, for good
 *
 *     @FILE                one of these, read from FILE each time a delegate is created
 * Any other mode fails to create, with a message. Invokes are counted per delegate. A node whose
 * own options hold a string "mode=MODE" does that instead: a model that is worse than others.
 * If EDGED_TEST_DELEGATE_LOG names a file, one line per event is appended to it:
 * "option KEY=VALUE", "created MODE", "refused MODE", "took N nodes", "prepared", "invoked N",
 * "destroyed". An invoke is logged when it starts.
 */

#define _GNU_SOURCE /* memmem */

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The part of tensorflow/lite/core/c/common.h (TF 2.14 to LiteRT 2) that a delegate touches.
 * The runtime owns these structs: fields may only be added at their ends, so a prefix is enough
 * where only pointers to them are passed. Types that are never looked into are void.
 */

typedef enum { kTfLiteOk = 0, kTfLiteError = 1 } TfLiteStatus;

typedef struct {
  int size;
  int data[];
} TfLiteIntArray;

/* The context holds an array of these: the size has to be right as well. */
typedef struct {
  int type;
  void* data;
  TfLiteIntArray* dims;
  struct {
    float scale;
    int32_t zero_point;
  } params;
  int allocation_type;
  size_t bytes;
  const void* allocation;
  const char* name;
  void* delegate;
  int buffer_handle;
  bool data_is_stale;
  bool is_variable;
  struct {
    int type;
    void* params;
  } quantization;
  void* sparsity;
  const TfLiteIntArray* dims_signature;
} TfLiteTensor;

typedef struct {
  TfLiteIntArray* inputs;
  TfLiteIntArray* outputs;
  TfLiteIntArray* intermediates;
  TfLiteIntArray* temporaries;
  void* user_data;
  void* builtin_data;
  const void* custom_initial_data;
  int custom_initial_data_size;
  /* More follows. */
} TfLiteNode;

struct TfLiteContext;
struct TfLiteDelegate;

/* Passed by value: complete, 11 fields since TF 2.14. An older runtime reads a prefix. */
typedef struct {
  void* (*init)(struct TfLiteContext*, const char* buffer, size_t length);
  void (*free)(struct TfLiteContext*, void* buffer);
  TfLiteStatus (*prepare)(struct TfLiteContext*, TfLiteNode*);
  TfLiteStatus (*invoke)(struct TfLiteContext*, TfLiteNode*);
  const char* (*profiling_string)(const struct TfLiteContext*, const TfLiteNode*);
  int32_t builtin_code;
  const char* custom_name;
  int version;
  void* registration_external;
  void* (*async_kernel)(struct TfLiteContext*, TfLiteNode*);
  uint64_t inplace_operator;
} TfLiteRegistration;

typedef struct TfLiteContext {
  size_t tensors_size;
  TfLiteStatus (*GetExecutionPlan)(struct TfLiteContext*, TfLiteIntArray** plan);
  TfLiteTensor* tensors;
  void* impl;
  TfLiteStatus (*ResizeTensor)(struct TfLiteContext*, TfLiteTensor*, TfLiteIntArray* size);
  void (*ReportError)(struct TfLiteContext*, const char* format, ...);
  TfLiteStatus (*AddTensors)(struct TfLiteContext*, int count, int* first);
  TfLiteStatus (*GetNodeAndRegistration)(struct TfLiteContext*, int index, TfLiteNode**,
                                         TfLiteRegistration**);
  TfLiteStatus (*ReplaceNodeSubsetsWithDelegateKernels)(struct TfLiteContext*, TfLiteRegistration,
                                                        const TfLiteIntArray* nodes,
                                                        struct TfLiteDelegate*);
  /* More follows. */
} TfLiteContext;

/* Made by the delegate and read by the runtime: complete. */
typedef struct TfLiteDelegate {
  void* data;
  TfLiteStatus (*Prepare)(TfLiteContext*, struct TfLiteDelegate*);
  TfLiteStatus (*CopyFromBufferHandle)(TfLiteContext*, struct TfLiteDelegate*, int, TfLiteTensor*);
  TfLiteStatus (*CopyToBufferHandle)(TfLiteContext*, struct TfLiteDelegate*, int, TfLiteTensor*);
  void (*FreeBufferHandle)(TfLiteContext*, struct TfLiteDelegate*, int*);
  int64_t flags;
  void* opaque_delegate_builder;
} TfLiteDelegate;

/* What a kernel's init gets as its buffer. */
typedef struct {
  TfLiteDelegate* delegate;
  /* More follows. */
} TfLiteDelegateParams;

#if UINTPTR_MAX == UINT64_MAX
_Static_assert(sizeof(TfLiteTensor) == 112, "TfLiteTensor");
_Static_assert(offsetof(TfLiteTensor, data) == 8, "TfLiteTensor.data");
_Static_assert(offsetof(TfLiteTensor, bytes) == 40, "TfLiteTensor.bytes");
_Static_assert(offsetof(TfLiteContext, ReportError) == 40, "TfLiteContext.ReportError");
_Static_assert(offsetof(TfLiteContext, GetNodeAndRegistration) == 56, "TfLiteContext nodes");
_Static_assert(offsetof(TfLiteContext, ReplaceNodeSubsetsWithDelegateKernels) == 64, "TfLiteContext");
_Static_assert(sizeof(TfLiteRegistration) == 88, "TfLiteRegistration");
_Static_assert(offsetof(TfLiteRegistration, custom_name) == 48, "TfLiteRegistration.custom_name");
_Static_assert(sizeof(TfLiteDelegate) == 56, "TfLiteDelegate");
#endif

typedef enum {
  MODE_OK,
  MODE_NULL,
  MODE_NULL_WITH_MESSAGE,
  MODE_PREPARE_ERROR,
  MODE_INVOKE_ERROR,
  MODE_HANG,
  MODE_ABORT,
  MODE_SEGFAULT,
  MODE_SLOW,
  MODE_LEAK,
  MODE_UNKNOWN,
} Mode;

typedef struct {
  TfLiteDelegate base; /* first: the runtime sees only this */
  Mode mode;
  long number;  /* of the mode, e.g. N or MS */
  long invokes; /* so far */
} Simulator;

static void log_line(const char* format, ...) {
  const char* path = getenv("EDGED_TEST_DELEGATE_LOG");
  if (path == NULL || *path == '\0') return;
  const int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (file < 0) return;
  char line[256];
  va_list arguments;
  va_start(arguments, format);
  const int length = vsnprintf(line, sizeof line - 1, format, arguments);
  va_end(arguments);
  if (length >= 0) {
    const size_t end = (size_t)length < sizeof line - 1 ? (size_t)length : sizeof line - 2;
    line[end] = '\n';
    /* One write: lines of several threads and processes do not mix. Losing one does no harm. */
    if (write(file, line, end + 1) < 0) perror(path);
  }
  close(file);
}

static Mode parse_mode(const char* text, long* number) {
  static const struct {
    const char* name;
    Mode mode;
    bool numbered;
  } modes[] = {
      {"ok", MODE_OK, false},
      {"no_device", MODE_NULL, false},
      {"silent_null", MODE_NULL, false},
      {"null_with_message", MODE_NULL_WITH_MESSAGE, false},
      {"prepare_error", MODE_PREPARE_ERROR, false},
      {"invoke_error", MODE_INVOKE_ERROR, false},
      {"invoke_error_after", MODE_INVOKE_ERROR, true},
      {"hang_after", MODE_HANG, true},
      {"abort_after", MODE_ABORT, true},
      {"segfault_after", MODE_SEGFAULT, true},
      {"slow", MODE_SLOW, true},
      {"leak", MODE_LEAK, true},
  };
  const size_t length = strcspn(text, ":");
  const bool numbered = text[length] == ':';
  *number = 1;
  if (numbered) {
    char* end = NULL;
    *number = strtol(text + length + 1, &end, 10);
    if (end == text + length + 1 || *end != '\0' || *number < 1) return MODE_UNKNOWN;
  }
  for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
    if (strlen(modes[i].name) == length && strncmp(modes[i].name, text, length) == 0 &&
        modes[i].numbered == numbered) {
      return modes[i].mode;
    }
  }
  return MODE_UNKNOWN;
}

static void sleep_ms(long milliseconds) {
  struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};
  while (nanosleep(&left, &left) != 0) {
  }
}

static void leak(size_t bytes) {
  static void* volatile lost; /* volatile: the compiler must not see that nobody wants it */
  lost = malloc(bytes);
  if (lost != NULL) memset(lost, 1, bytes);
}

static void* kernel_init(TfLiteContext* context, const char* buffer, size_t length) {
  (void)context;
  (void)length;
  return ((const TfLiteDelegateParams*)(const void*)buffer)->delegate;
}

static TfLiteStatus kernel_prepare(TfLiteContext* context, TfLiteNode* node) {
  const Simulator* simulator = node->user_data;
  if (simulator->mode == MODE_PREPARE_ERROR) {
    /* libedgetpu's own words, without a space or newline at the end: see the public reports. */
    context->ReportError(context,
                         "Failed to prepare for TPU. Failed precondition: Package requires runtime "
                         "version (14), which is newer than this runtime version (13).");
    return kTfLiteError;
  }
  log_line("prepared");
  return kTfLiteOk;
}

static void compute(TfLiteContext* context, const TfLiteNode* node) {
  uint64_t sum = 0;
  for (int i = 0; i < node->inputs->size; i++) {
    const int index = node->inputs->data[i];
    if (index < 0) continue; /* an optional input that is left out */
    const TfLiteTensor* input = &context->tensors[index];
    for (size_t at = 0; at < input->bytes; at++) sum += ((const uint8_t*)input->data)[at];
  }
  for (int i = 0; i < node->outputs->size; i++) {
    const TfLiteTensor* output = &context->tensors[node->outputs->data[i]];
    for (size_t at = 0; at < output->bytes; at++) {
      ((uint8_t*)output->data)[at] = (uint8_t)((sum + at) & 0xff);
    }
  }
}

static TfLiteStatus kernel_invoke(TfLiteContext* context, TfLiteNode* node) {
  Simulator* simulator = node->user_data;
  simulator->invokes++;
  log_line("invoked %ld", simulator->invokes);
  const bool due = simulator->invokes >= simulator->number;
  switch (simulator->mode) {
    case MODE_INVOKE_ERROR:
      if (!due) break;
      context->ReportError(context, "Failed to execute request. Internal: USB transfer error 1.");
      return kTfLiteError;
    case MODE_HANG:
      while (due) pause(); /* a signal ends pause, not the hang */
      break;
    case MODE_ABORT:
      if (due) abort();
      break;
    case MODE_SEGFAULT:
      if (due) raise(SIGSEGV);
      break;
    case MODE_LEAK:
      leak((size_t)simulator->number * 1024);
      break;
    case MODE_SLOW:
      sleep_ms(simulator->number);
      break;
    default:
      break;
  }
  compute(context, node);
  return kTfLiteOk;
}

static bool is_ours(TfLiteContext* context, int index, TfLiteNode** node) {
  TfLiteRegistration* registration = NULL;
  return context->GetNodeAndRegistration(context, index, node, &registration) == kTfLiteOk &&
         registration->custom_name != NULL &&
         strcmp(registration->custom_name, "edgetpu-custom-op") == 0;
}

/* FlexBuffers keep strings as they are, with a NUL behind them. */
static void take_mode_of(const TfLiteNode* node, Simulator* simulator) {
  static const char mark[] = "mode=";
  if (node->custom_initial_data == NULL) return;
  const size_t size = (size_t)node->custom_initial_data_size;
  const char* found = memmem(node->custom_initial_data, size, mark, sizeof mark - 1);
  if (found != NULL) simulator->mode = parse_mode(found + sizeof mark - 1, &simulator->number);
}

static TfLiteStatus delegate_prepare(TfLiteContext* context, TfLiteDelegate* delegate) {
  TfLiteIntArray* plan = NULL;
  if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) return kTfLiteError;
  TfLiteIntArray* nodes = malloc(sizeof *nodes + (size_t)plan->size * sizeof nodes->data[0]);
  if (nodes == NULL) return kTfLiteError;
  nodes->size = 0;
  for (int i = 0; i < plan->size; i++) {
    TfLiteNode* node = NULL;
    if (!is_ours(context, plan->data[i], &node)) continue;
    nodes->data[nodes->size++] = plan->data[i];
    take_mode_of(node, (Simulator*)delegate->data);
  }
  const TfLiteRegistration kernel = {
      .init = kernel_init,
      .prepare = kernel_prepare,
      .invoke = kernel_invoke,
      .custom_name = "EdgeTpuDelegateForCustomOp", /* libedgetpu's, as it stands in errors */
      .version = 1,
  };
  log_line("took %d nodes", nodes->size);
  const TfLiteStatus status =
      context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, nodes, delegate);
  free(nodes);
  return status;
}

/* The two functions that load_delegate looks up. */

TfLiteDelegate* tflite_plugin_create_delegate(char** keys, char** values, size_t count,
                                              void (*report_error)(const char*));
void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate);

TfLiteDelegate* tflite_plugin_create_delegate(char** keys, char** values, size_t count,
                                              void (*report_error)(const char*)) {
  const char* text = getenv("EDGED_TEST_DELEGATE");
  if (text == NULL || *text == '\0') text = "ok";
  /* Python declares the count as int: the upper half is not its to promise. */
  for (size_t i = 0; i < (size_t)(uint32_t)count; i++) {
    log_line("option %s=%s", keys[i], values[i]);
    if (strcmp(keys[i], "mode") == 0) text = values[i];
  }
  long number = 1;
  /* "@file": the mode stands in a file, so that it can change while the process runs. */
  char line[64] = "";
  if (text != NULL && text[0] == '@') {
    FILE* file = fopen(text + 1, "r");
    if (file != NULL) {
      if (fgets(line, sizeof line, file) != NULL) line[strcspn(line, "\n")] = '\0';
      fclose(file);
    }
    text = line;
  }
  const Mode mode = parse_mode(text, &number);
  const char* complaint = mode == MODE_UNKNOWN             ? "unknown mode of the test delegate"
                          : mode == MODE_NULL_WITH_MESSAGE ? "No Edge TPU device found"
                                                           : NULL;
  Simulator* simulator = NULL;
  if (complaint == NULL && mode != MODE_NULL) simulator = calloc(1, sizeof *simulator);
  if (simulator == NULL) {
    log_line("refused %s", text);
    if (complaint != NULL && report_error != NULL) report_error(complaint);
    return NULL;
  }
  simulator->base.data = simulator;
  simulator->base.Prepare = delegate_prepare;
  /* kTfLiteDelegateFlagsAllowDynamicTensors: without it the runtime prepares the whole graph
   * before it asks the delegate, and stumbles over the unknown custom operator. */
  simulator->base.flags = 1;
  simulator->mode = mode;
  simulator->number = number;
  log_line("created %s", text);
  return &simulator->base;
}

void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate) {
  /* Python destroys what create returned, even when that was NULL. */
  if (delegate == NULL) return;
  log_line("destroyed");
  free(delegate->data);
}
