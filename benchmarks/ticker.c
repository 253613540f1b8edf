/* ticker INTERVAL_US COUNT [START_NS]: prints "NUMBER CLOCK\n" every INTERVAL_US, one write(2) each.
 *
 * CLOCK is CLOCK_MONOTONIC in nanoseconds just before the write, so that the reader knows the delay of every line. The
 * schedule is absolute: a late line does not make the next ones late. START_NS on the same clock lets many begin in step.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const long long SECOND = 1000000000LL;

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

static void sleep_until(long long due) {
    struct timespec t = {due / SECOND, due % SECOND};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}

static int write_all(const char *text, size_t length) {
    while (length > 0) {
        ssize_t written = write(STDOUT_FILENO, text, length);
        if (written < 0 && errno != EINTR)
            return -1;
        if (written > 0) {
            text += written;
            length -= written;
        }
    }
    return 0;
}

int main(int count_of_words, char **words) {
    if (count_of_words < 3) {
        fputs("usage: ticker INTERVAL_US COUNT [START_NS]\n", stderr);
        return 2;
    }
    long long interval = atoll(words[1]) * 1000;
    long count = atol(words[2]);
    long long start = count_of_words > 3 ? atoll(words[3]) : now();
    char line[64];
    for (long i = 0; i < count; i++) {
        sleep_until(start + i * interval);
        snprintf(line, sizeof line, "%ld %lld\n", i, now());
        if (write_all(line, strlen(line)) < 0)
            return 1;
    }
    return 0;
}
