R"SM(
/* The compile worker: a library that clang is started with (LD_PRELOAD). It takes the place of main, in a process that
   the loader has finished and that has compiled nothing yet, and forks a child for each request: to run clang's own
   main, or to make machine code of LLVM's IR with the LLVM that clang is linked to. A child that crashes is a failed
   request, no more. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { REQUESTS = 3, MAX_BYTES = 65536, MAX_WORDS = 256 };
typedef int (*Main)(int, char **, char **);
static Main clang_main;

/* Of llvm-c, whose functions keep their types from version to version. */
typedef void *Ref;
static Ref (*LLVMContextCreate)(void);
static int (*LLVMCreateMemoryBufferWithContentsOfFile)(const char *, Ref *, char **);
static int (*LLVMParseIRInContext)(Ref, Ref, Ref *, char **);
static int (*LLVMGetTargetFromTriple)(const char *, Ref *, char **);
static const char *(*LLVMGetTarget)(Ref);
static Ref (*LLVMCreateTargetMachine)(Ref, const char *, const char *, const char *, int, int, int);
static int (*LLVMTargetMachineEmitToFile)(Ref, Ref, const char *, int, char **);

static int find_llvm(void) {
  static const struct {
    const char *name;
    void *to;
  } names[] = {{"LLVMContextCreate", &LLVMContextCreate},
               {"LLVMCreateMemoryBufferWithContentsOfFile", &LLVMCreateMemoryBufferWithContentsOfFile},
               {"LLVMParseIRInContext", &LLVMParseIRInContext},
               {"LLVMGetTargetFromTriple", &LLVMGetTargetFromTriple},
               {"LLVMGetTarget", &LLVMGetTarget},
               {"LLVMCreateTargetMachine", &LLVMCreateTargetMachine},
               {"LLVMTargetMachineEmitToFile", &LLVMTargetMachineEmitToFile}};
  static const char *start[] = {"LLVMInitializeX86TargetInfo", "LLVMInitializeX86Target", "LLVMInitializeX86TargetMC",
                                "LLVMInitializeX86AsmPrinter", "LLVMInitializeX86AsmParser"};
  for (unsigned i = 0; i < sizeof names / sizeof *names; ++i) {
    void *at = dlsym(RTLD_DEFAULT, names[i].name);
    if (!at) return 0;
    memcpy(names[i].to, &at, sizeof at);
  }
  for (unsigned i = 0; i < sizeof start / sizeof *start; ++i) {
    void (*initialize)(void);
    void *at = dlsym(RTLD_DEFAULT, start[i]);
    if (!at) return 0;
    memcpy(&initialize, &at, sizeof at);
    initialize();
  }
  return 1;
}

/* emit LEVEL IN OUT */
static int emit(char **words) {
  enum { PIC = 2, DEFAULT_MODEL = 0, OBJECT = 1 };
  Ref buffer, module, target;
  char *error = NULL;
  if (LLVMCreateMemoryBufferWithContentsOfFile(words[2], &buffer, &error) ||
      LLVMParseIRInContext(LLVMContextCreate(), buffer, &module, &error) ||
      LLVMGetTargetFromTriple(LLVMGetTarget(module), &target, &error)) {
    fprintf(stderr, "%s\n", error);
    return 1;
  }
  Ref machine =
      LLVMCreateTargetMachine(target, LLVMGetTarget(module), "x86-64-v3", "", atoi(words[1]), PIC, DEFAULT_MODEL);
  if (LLVMTargetMachineEmitToFile(machine, module, words[3], OBJECT, &error)) {
    fprintf(stderr, "%s\n", error);
    return 1;
  }
  return 0;
}

static void child(char **words, int count, int output, char **environment) {
  struct {
    int status;
    unsigned microseconds;
  } ending;
  struct rusage used;
  pid_t pid = fork();
  if (!pid) {
    dup2(output, 1);
    dup2(output, 2);
    close(output);
    close(REQUESTS);
    int status = strcmp(words[0], "emit") ? clang_main(count, words, environment) : emit(words);
    fflush(NULL);
    _exit(status);
  }
  while (wait4(pid, &ending.status, 0, &used) < 0) {}
  ending.microseconds = (unsigned)((used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000 + used.ru_utime.tv_usec +
                                   used.ru_stime.tv_usec);
  if (write(output, &ending, sizeof ending) < 0) _exit(1);
  _exit(0);
}

static int serve(int argc, char **argv, char **environment) {
  static char bytes[MAX_BYTES];
  static char *words[MAX_WORDS + 1];
  (void)argc;
  (void)argv;
  if (write(REQUESTS, "", 1) != 1) return 1; /* ready */
  signal(SIGCHLD, SIG_IGN);
  for (;;) {
    char control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
    struct iovec part = {bytes, sizeof bytes};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(REQUESTS, &message, MSG_CMSG_CLOEXEC);
    if (n <= 0) return 0; /* whoever started this is gone */
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    int output, count = 0;
    if (!rights || rights->cmsg_type != SCM_RIGHTS) continue;
    memcpy(&output, CMSG_DATA(rights), sizeof output);
    for (char *at = bytes; at < bytes + n && count < MAX_WORDS; at += strlen(at) + 1) words[count++] = at;
    words[count] = NULL;
    if (!fork()) {
      signal(SIGCHLD, SIG_DFL);
      child(words, count, output, environment);
    }
    close(output);
  }
}

int __libc_start_main(Main program, int argc, char **argv, void (*init)(void), void (*fini)(void), void (*loader)(void),
                      void *stack) {
  int (*start)(Main, int, char **, void (*)(void), void (*)(void), void (*)(void), void *);
  void *at = dlsym(RTLD_NEXT, "__libc_start_main");
  memcpy(&start, &at, sizeof at);
  unsetenv("LD_PRELOAD");
  unsetenv("LD_BIND_NOW");
  clang_main = program;
  return start(find_llvm() ? serve : program, argc, argv, init, fini, loader, stack);
}
)SM"
