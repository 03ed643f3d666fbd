#include "vmm/terminal.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/error.h"

struct screen {
    int master, slave;
    struct termios before;
};

struct keyboard {
    struct screen screen;
    struct terminal *terminal;
    unsigned quits, buttons;
};

static void open_screen(struct screen *screen)
{
    cr_assert_eq(openpty(&screen->master, &screen->slave, NULL, NULL, NULL), 0);
    cr_assert_eq(tcgetattr(screen->slave, &screen->before), 0);
    cr_assert(screen->before.c_lflag & ICANON);
}

static bool is_raw(const struct screen *screen)
{
    struct termios found;
    cr_assert_eq(tcgetattr(screen->slave, &found), 0);
    return !(found.c_lflag & (ICANON | ECHO | ISIG)) && !(found.c_iflag & (ICRNL | IXON)) &&
           !(found.c_oflag & OPOST);
}

static bool is_restored(const struct screen *screen)
{
    struct termios found;
    cr_assert_eq(tcgetattr(screen->slave, &found), 0);
    return found.c_iflag == screen->before.c_iflag && found.c_oflag == screen->before.c_oflag &&
           found.c_cflag == screen->before.c_cflag && found.c_lflag == screen->before.c_lflag &&
           memcmp(found.c_cc, screen->before.c_cc, sizeof(found.c_cc)) == 0;
}

static void note_command(void *opaque, enum terminal_command command)
{
    struct keyboard *keyboard = opaque;
    keyboard->quits += command == TERMINAL_QUIT;
    keyboard->buttons += command == TERMINAL_POWER_BUTTON;
}

static void attach(struct keyboard *keyboard)
{
    struct error err = {0};
    struct terminal_config config = {
        .fd = keyboard->screen.slave, .command = note_command, .opaque = keyboard};
    cr_assert_eq(terminal_create(&config, &keyboard->terminal, &err), 0, "%s", err.message);
    cr_assert(keyboard->terminal);
}

static void open_keyboard(struct keyboard *keyboard)
{
    *keyboard = (struct keyboard){.quits = 0};
    open_screen(&keyboard->screen);
    attach(keyboard);
}

/* Filters `typed` in pieces of at most `chunk` bytes and compares what is left. */
static void type(struct keyboard *keyboard, const char *typed, size_t chunk, const char *expected)
{
    char left[1000] = {0};
    size_t count = 0;
    for (size_t done = 0, size = strlen(typed); done < size;) {
        size_t piece = size - done < chunk ? size - done : chunk;
        memcpy(left + count, typed + done, piece);
        count += terminal_filter(keyboard->terminal, (uint8_t *)left + count, piece);
        done += piece;
    }
    left[count] = '\0';
    cr_assert_str_eq(left, expected);
}

Test(terminal, is_not_there_where_input_is_something_else)
{
    int ends[2];
    struct error err;
    struct terminal *terminal = (struct terminal *)&err;
    cr_assert_eq(pipe(ends), 0);
    cr_assert_eq(terminal_create(&(struct terminal_config){.fd = ends[0]}, &terminal, &err), 0);
    cr_assert_null(terminal);
    cr_assert_eq(terminal_create(&(struct terminal_config){.fd = 1000}, &terminal, &err), 0);
    cr_assert_null(terminal);
    terminal_destroy(terminal);
}

Test(terminal, is_raw_and_then_as_before)
{
    struct keyboard keyboard;
    for (int i = 0; i < 3; i++) {
        open_keyboard(&keyboard);
        cr_assert(is_raw(&keyboard.screen));
        terminal_destroy(keyboard.terminal);
        cr_assert(is_restored(&keyboard.screen));
    }
    cr_assert_eq(waitpid(-1, NULL, 0), -1, "no child is left");
}

Test(terminal, passes_on_what_is_typed)
{
    struct keyboard keyboard;
    open_keyboard(&keyboard);
    for (size_t chunk = 1; chunk < 12; chunk++) {
        type(&keyboard, "ls -l\r\003\004\033[A x", chunk, "ls -l\r\003\004\033[A x");
        type(&keyboard, "1\001\0012", chunk, "1\0012");
        type(&keyboard, "1\001a2", chunk, "1\0012");
        type(&keyboard, "\001\001x", chunk, "\001x");
        type(&keyboard, "\001\001\001\001", chunk, "\001\001");
    }
    cr_assert_eq(keyboard.quits, 0);
    terminal_destroy(keyboard.terminal);
}

Test(terminal, acts_on_escape_keys)
{
    struct keyboard keyboard;
    open_keyboard(&keyboard);
    for (size_t chunk = 1; chunk < 5; chunk++) {
        type(&keyboard, "a\001xb", chunk, "ab");
        cr_assert_eq(keyboard.quits, chunk);
        type(&keyboard, "a\001pb", chunk, "ab");
        cr_assert_eq(keyboard.buttons, chunk);
    }
    terminal_destroy(keyboard.terminal);
}

Test(terminal, lists_its_keys)
{
    struct keyboard keyboard;
    char text[1000];
    open_keyboard(&keyboard);
    type(&keyboard, "\001h", 2, "");
    ssize_t count = read(keyboard.screen.master, text, sizeof(text) - 1);
    cr_assert_gt(count, 0);
    text[count] = '\0';
    cr_assert(strstr(text, "Ctrl-A x") && strstr(text, "Ctrl-A p") && strstr(text, "Ctrl-A h"));
    for (char *line = strchr(text, '\n'); line; line = strchr(line + 1, '\n'))
        cr_assert_eq(line[-1], '\r');
    type(&keyboard, "\001z", 2, "");
    count = read(keyboard.screen.master, text, sizeof(text) - 1);
    cr_assert_gt(count, 0);
    text[count] = '\0';
    cr_assert(strstr(text, "Ctrl-A h lists the keys"));
    terminal_destroy(keyboard.terminal);
}

/* A process that has the terminal and waits for its end; it is in a process group of its own. */
static pid_t start_owner(const struct screen *screen)
{
    int ready[2];
    char byte;
    cr_assert_eq(pipe(ready), 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* the guardian comes to us when its parent has gone */
    pid_t owner = fork();
    if (owner == 0) {
        setpgid(0, 0);
        signal(SIGSEGV, SIG_DFL); /* no sanitizer shall make a child of its own */
        struct keyboard keyboard = {.screen = *screen};
        attach(&keyboard);
        if (write(ready[1], "", 1) != 1)
            abort();
        for (;;)
            pause();
    }
    cr_assert_eq(read(ready[0], &byte, 1), 1);
    cr_assert(is_raw(screen));
    close(ready[0]);
    close(ready[1]);
    return owner;
}

static pid_t guardian_of(pid_t owner)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)owner, (int)owner);
    FILE *file = fopen(path, "r");
    int guardian = 0;
    cr_assert(file);
    cr_assert_eq(fscanf(file, "%d", &guardian), 1);
    fclose(file);
    return guardian;
}

/* The guardian takes its name when it is ready for anything. */
static void wait_for_name(pid_t guardian)
{
    char path[64], name[32] = "";
    snprintf(path, sizeof(path), "/proc/%d/comm", (int)guardian);
    while (strcmp(name, "tty-guardian\n") != 0) {
        FILE *file = fopen(path, "r");
        cr_assert(file);
        cr_assert(fgets(name, sizeof(name), file));
        fclose(file);
        sched_yield();
    }
}

static void wait_for_guardian(void)
{
    int status;
    cr_assert_gt(waitpid(-1, &status, 0), 0);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void check_restored_after(int signal_number)
{
    struct screen screen;
    open_screen(&screen);
    pid_t owner = start_owner(&screen);
    kill(owner, signal_number);
    cr_assert_eq(waitpid(owner, NULL, 0), owner);
    wait_for_guardian();
    cr_assert(is_restored(&screen));
}

Test(terminal, is_restored_when_godwit_is_killed)
{
    check_restored_after(SIGKILL);
}

Test(terminal, is_restored_when_godwit_crashes)
{
    check_restored_after(SIGSEGV);
}

Test(terminal, is_restored_when_godwits_process_group_is_killed)
{
    struct screen screen;
    open_screen(&screen);
    pid_t owner = start_owner(&screen);
    wait_for_name(guardian_of(owner));
    kill(-owner, SIGKILL);
    cr_assert_eq(waitpid(owner, NULL, 0), owner);
    wait_for_guardian();
    cr_assert(is_restored(&screen));
}

Test(terminal, guardian_outlives_signals_and_holds_nothing_open)
{
    static const int signals[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
    struct screen screen;
    open_screen(&screen);
    pid_t owner = start_owner(&screen), guardian = guardian_of(owner);
    wait_for_name(guardian);
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        kill(guardian, signals[i]);
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)guardian);
    DIR *folder = opendir(path);
    int open = 0;
    while (readdir(folder))
        open++;
    closedir(folder);
    cr_assert_eq(open, 2 + 2, "its terminal and its socket, beside . and ..");
    kill(owner, SIGKILL);
    cr_assert_eq(waitpid(owner, NULL, 0), owner);
    wait_for_guardian();
    cr_assert(is_restored(&screen));
}

/* A shell that has taken the terminal back in the meantime has its own idea of it. */
Test(terminal, is_left_alone_where_somebody_else_has_set_it_up)
{
    struct screen screen;
    open_screen(&screen);
    pid_t owner = start_owner(&screen);
    struct termios shell = screen.before, found;
    shell.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    cr_assert_eq(tcsetattr(screen.slave, TCSANOW, &shell), 0);
    kill(owner, SIGKILL);
    cr_assert_eq(waitpid(owner, NULL, 0), owner);
    wait_for_guardian();
    cr_assert_eq(tcgetattr(screen.slave, &found), 0);
    cr_assert_eq(found.c_lflag, shell.c_lflag);
}
