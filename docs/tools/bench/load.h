/* The parts that the loads share. PROGRAM is the name in front of errors. */

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum { MAX_RESPONSE = 8192 };

typedef struct {
    const char *bytes;
    size_t length;
} Request;

static void fail(const char *what)
{
    fprintf(stderr, PROGRAM ": %s\n", what);
    exit(1);
}

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (memory == NULL)
        fail("out of memory");
    return memory;
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Read the file of requests, each with a NUL behind it. Returns how many there are. */
static size_t read_requests(const char *path, Request **requests)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0)
        fail("cannot read the requests");
    long size = ftell(file);
    rewind(file);
    char *bytes = allocate((size_t)size + 1, 1);
    if (fread(bytes, 1, (size_t)size, file) != (size_t)size)
        fail("cannot read the requests");
    fclose(file);
    size_t count = 0, number = 0;
    for (long i = 0; i < size; i++)
        count += bytes[i] == '\0';
    if (count == 0)
        fail("there are no requests");
    *requests = allocate(count, sizeof(Request));
    for (const char *begin = bytes; number < count; number++) {
        (*requests)[number] = (Request){begin, strlen(begin)};
        begin += strlen(begin) + 1;
    }
    return count;
}

/* The value of Content-Length. The head ends with a NUL. */
static size_t length_of_body(const char *head)
{
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, "content-length:", 15) == 0)
            return strtoul(line + 17, NULL, 10);
    fail("a response has no Content-Length");
    return 0;
}

/* The size of the response that begins here and ends with a NUL; 0: its head is not complete. */
static size_t response_size(char *response)
{
    char *end = strstr(response, "\r\n\r\n");
    if (end == NULL)
        return 0;
    if (strncmp(response, "HTTP/1.1 200 ", 13) != 0)
        fail(response);
    end[2] = '\0';
    size_t size = (size_t)(end - response) + 4 + length_of_body(response);
    end[2] = '\r';
    return size;
}

static int compare(const void *left, const void *right)
{
    float a = *(const float *)left, b = *(const float *)right;
    return (a > b) - (a < b);
}

static void print_percentiles(const char *name, float *values, size_t count)
{
    static const struct {
        const char *name;
        double part;
    } wanted[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}, {"max", 1.0}};
    qsort(values, count, sizeof *values, compare);
    printf("%s", name);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        size_t place = (size_t)(wanted[i].part * (double)count);
        printf(" %s %.1f", wanted[i].name, (double)values[place < count ? place : count - 1]);
    }
    printf("\n");
}
