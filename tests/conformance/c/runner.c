#include "runner.h"

#include <stdlib.h>
#include <string.h>

#include "results.h"

enum { MAX_REASONS = 16 };

typedef struct run_state {
  const binding* language;
  results* record; /* NULL: not wanted */
  bool require, shares;
  double closest; /* the largest share of an allowed error that passed */
  char closest_name[128];
  int passed, failed, skipped;
  int reason_count;
  struct {
    char text[160];
    int count;
  } reasons[MAX_REASONS];
} run_state;

typedef enum outcome { PASSED, FAILED, SKIPPED } outcome;

static void skip(run_state* run, const char* reason) {
  int i = 0;
  while (i < run->reason_count && strncmp(run->reasons[i].text, reason, sizeof run->reasons[i].text - 1) != 0) i++;
  if (i == MAX_REASONS) i--;
  if (i == run->reason_count) snprintf(run->reasons[run->reason_count++].text, sizeof run->reasons[i].text, "%s", reason);
  run->reasons[i].count++;
}

static bool is_backward_result(const char* role) {
  return strncmp(role, "grad_", 5) == 0 || strcmp(role, "d_values") == 0;
}

static void note_share(run_state* run, const vector_case* c, const vector_expectation* e) {
  if (run->shares && e->share > 0) printf("%5.1f %% of the error allowed: %s %s\n", 100 * e->share, c->name, e->role);
  if (e->share > run->closest) {
    run->closest = e->share;
    snprintf(run->closest_name, sizeof run->closest_name, "%s %s", c->name, e->role);
  }
}

static bool check_expectations(run_state* run, live_case* live, bool backward) {
  vector_case* c = live->c;
  for (int i = 0; i < c->expectation_count; i++) {
    vector_expectation* e = &c->expectations[i];
    bool right = true;
    if (e->kind == EXPECT_BYTES) {
      right = check_bytes(c, e, live->buffers);
    } else if (e->kind == EXPECT_ERROR) {
      right = check_report(c, e, &live->report);
    } else if (is_backward_result(e->role) == backward) {
      right = check_values(c, vector_find(c, e->role), e, live->buffers);
    }
    if (!right) return false;
    note_share(run, c, e);
  }
  return true;
}

static outcome judge(run_state* run, live_case* live, int32_t status, bool backward) {
  const char* message = status == MFA_SUCCESS ? "success" : run->language->message();
  if (status == MFA_ERROR_UNSUPPORTED) {
    skip(run, message);
    return SKIPPED;
  }
  if (status != live->c->status) {
    printf("%s: status %d (%s), expected %d\n", live->c->name, (int)status, message, live->c->status);
    return FAILED;
  }
  bool refused = live->c->status != MFA_SUCCESS;
  if (refused && message[0] == '\0') {
    printf("%s: refused without a message\n", live->c->name);
    return FAILED;
  }
  bool right = check_untouched(live->c, live->buffers, refused) && (refused || check_expectations(run, live, backward));
  return right ? PASSED : FAILED;
}

static void count(run_state* run, live_case* live, const char* call, int32_t status) {
  if (run->record != NULL) {
    const char* message = status == MFA_SUCCESS ? "" : run->language->message();
    results_add(run->record, live, call, status, message);
  }
  switch (judge(run, live, status, strcmp(call, "backward") == 0)) {
    case PASSED: run->passed++; break;
    case FAILED: run->failed++; break;
    case SKIPPED: run->skipped++; break;
  }
}

static void run_case(run_state* run, vector_case* c) {
  const binding* language = run->language;
  live_case live = {.c = c};
  bool has_output = vector_find(c, "output") != NULL, has_gradient = vector_find(c, "grad_output") != NULL;
  language->create(&live);
  if (strcmp(c->call, "quantize") == 0) {
    count(run, &live, "quantize", language->quantize(&live));
  } else if (strcmp(c->call, "dequantize") == 0) {
    count(run, &live, "dequantize", language->dequantize(&live));
  } else if (strcmp(c->call, "plain") == 0) {
    count(run, &live, "forward", language->plain(&live));
  } else if (strcmp(c->call, "training") == 0) {
    count(run, &live, "forward", language->training_forward(&live));
    if (has_gradient) count(run, &live, "backward", language->training_backward(&live));
  } else {
    if (has_output) count(run, &live, "forward", language->forward(&live));
    if (has_gradient) count(run, &live, "backward", language->backward(&live));
  }
  language->destroy(&live);
}

static void run_vectors(run_state* run, const char* folder, const char* only) {
  static vector_case c;
  vector_reader reader;
  vector_open(&reader, folder);
  while (vector_next(&reader, &c)) {
    if (strstr(c.name, only) != NULL) run_case(run, &c);
    vector_free(&c);
  }
  vector_close(&reader);
}

int runner_main(int argc, char** argv, const binding* language) {
  static run_state run;
  const char *library = getenv("MFA_DRIVER"), *folder = NULL, *only = "", *out = getenv("MFA_RESULTS");
  run.language = language;
  run.require = getenv("MFA_REQUIRE_ALL") != NULL;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--require") == 0) {
      run.require = true;
    } else if (strcmp(argv[i], "--shares") == 0) {
      run.shares = true;
    } else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc) {
      only = argv[++i];
    } else if (strcmp(argv[i], "--driver") == 0 && i + 1 < argc) {
      library = argv[++i];
    } else {
      folder = argv[i];
    }
  }
  if (folder == NULL) {
    fprintf(stderr, "usage: conformance [--require] [--shares] [--only TEXT] [--driver LIBRARY] VECTORS\n");
    return 2;
  }
  if (library != NULL && library[0] == '\0') library = NULL;
  const char* problem = language->open(library);
  if (problem != NULL) {
    fprintf(stderr, "conformance: cannot use %s: %s\n", library == NULL ? "the driver" : library, problem);
    return 2;
  }
  if (out != NULL) run.record = results_open(out, language->device());
  if (only[0] == '\0' && language->bad_input != NULL) language->bad_input(&run.passed, &run.failed, &run.skipped);
  run_vectors(&run, folder, only);
  language->close();
  if (run.record != NULL) results_close(run.record);
  for (int i = 0; i < run.reason_count; i++) printf("skipped %d: %s\n", run.reasons[i].count, run.reasons[i].text);
  if (run.closest > 0) printf("closest to its bound: %s, %.0f %% of the error allowed\n", run.closest_name, 100 * run.closest);
  printf("%d passed, %d failed, %d skipped\n", run.passed, run.failed, run.skipped);
  return run.failed == 0 && run.passed > 0 && !(run.require && run.skipped > 0) ? 0 : 1;
}
