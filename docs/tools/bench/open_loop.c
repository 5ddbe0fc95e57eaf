/* open_loop PORT FILE CONNECTIONS RATE SECONDS: a load that does not wait for the proxy.
 *
 * FILE has whole requests, each with a NUL behind it, which are sent in turn. Request number n is due n / RATE seconds
 * after the start. It goes out on a connection that waits for no response; while all of them do, it is late, and its
 * latency still counts from the moment when it was due. RATE 0 sends whenever a connection is free: a closed loop, which
 * finds the rate at saturation. Connections are kept; each carries one request at a time.
 *
 * Prints requests, seconds from the first to the last, and percentiles in microseconds: of the latencies, and of the
 * time for which a due request waited for this program although a connection was free. Exit code 1: a response was not
 * 200, a connection broke, or responses did not come.
 */

#define _GNU_SOURCE
#define PROGRAM "open_loop"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

enum { MAX_EVENTS = 256, PATIENCE_SECONDS = 10, MAX_REQUESTS_PER_SECOND = 500000 };

typedef struct {
    int fd;
    uint64_t due;
    size_t received;
    char response[MAX_RESPONSE + 1];
} Connection;

static int connect_to(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        fail("cannot connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

/* A head is far smaller than the socket's buffer, so a send that takes less of it is an error. */
static void send_request(const Connection *connection, const Request *request)
{
    ssize_t sent = send(connection->fd, request->bytes, request->length, MSG_NOSIGNAL);
    if (sent != (ssize_t)request->length)
        fail(sent < 0 ? strerror(errno) : "a request was not sent whole");
}

/* Receive what there is. Returns 1 when the response is complete. */
static int receive(Connection *connection)
{
    ssize_t count = recv(connection->fd, connection->response + connection->received,
                         MAX_RESPONSE - connection->received, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (count <= 0)
        fail(count < 0 ? strerror(errno) : "a connection was closed, or a response is too long");
    connection->received += (size_t)count;
    connection->response[connection->received] = '\0';
    size_t size = response_size(connection->response);
    if (size && connection->received > size)
        fail("there is more than a response");
    return size && connection->received == size;
}

static Connection *connections;
static int poll_fd;

/* A ring of the connections that wait for no response, so that all of them are used in turn. */
static uint32_t *idle;
static size_t connection_count, idle_first, idle_count;

static void put_idle(uint32_t number)
{
    idle[(idle_first + idle_count++) % connection_count] = number;
}

static uint32_t take_idle(void)
{
    uint32_t number = idle[idle_first];
    idle_first = (idle_first + 1) % connection_count;
    idle_count--;
    return number;
}

/* Connect all, and wait for their events in one place. */
static void open_all(int port, size_t count)
{
    connections = allocate(count, sizeof(Connection));
    idle = allocate(count, sizeof(uint32_t));
    connection_count = count;
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (size_t i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        connections[i].fd = connect_to(port);
        if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, connections[i].fd, &event) != 0)
            fail("epoll_ctl failed");
        put_idle((uint32_t)i);
    }
}

/* Wait for responses, or until something is due. Returns the number of events. */
static int wait_for(struct epoll_event *events, uint64_t until, uint64_t at)
{
    uint64_t left = until > at ? until - at : 0;
    struct timespec timeout = {.tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u)};
    int count = epoll_pwait2(poll_fd, events, MAX_EVENTS, &timeout, NULL);
    if (count < 0 && errno != EINTR)
        fail("epoll_pwait2 failed");
    return count > 0 ? count : 0;
}

int main(int argc, char **argv)
{
    if (argc != 6)
        fail("usage: open_loop PORT FILE CONNECTIONS RATE SECONDS");
    Request *requests;
    size_t kinds = read_requests(argv[2], &requests), count = strtoul(argv[3], NULL, 10);
    double rate = strtod(argv[4], NULL), seconds = strtod(argv[5], NULL);
    if (count == 0 || rate < 0 || rate > MAX_REQUESTS_PER_SECOND || seconds <= 0)
        fail("CONNECTIONS and SECONDS must be positive, RATE at most 500000");
    size_t most = (size_t)((rate > 0 ? rate : MAX_REQUESTS_PER_SECOND) * seconds);
    float *latencies = allocate(most, sizeof(float)), *late = allocate(most, sizeof(float));
    struct epoll_event events[MAX_EVENTS];
    open_all(atoi(argv[1]), count);
    prctl(PR_SET_TIMERSLACK, 1000);

    size_t sent = 0, answered = 0;
    uint64_t begin = now(), end = begin + (uint64_t)(seconds * 1e9), at = begin, last_free = begin;
    while (sent < most || answered < sent) {
        uint64_t due = at;
        while (sent < most) {
            due = rate > 0 ? begin + (uint64_t)((double)sent * 1e9 / rate) : at;
            if (rate == 0 && at >= end)
                most = sent;
            if (due > at || idle_count == 0 || sent == most)
                break;
            /* A request that had to wait for a connection is late through the proxy's fault, not through ours. */
            uint64_t possible = due > last_free ? due : last_free;
            late[sent] = at > possible ? (float)(at - possible) / 1000 : 0;
            Connection *connection = &connections[take_idle()];
            connection->due = due;
            connection->received = 0;
            send_request(connection, &requests[sent++ % kinds]);
            at = now();
        }
        if (sent == most && answered == sent)
            break;
        int is_waiting_for_time = sent < most && idle_count > 0;
        int ready = wait_for(events, is_waiting_for_time ? due : at + PATIENCE_SECONDS * 1000000000ull, at);
        at = now();
        if (ready == 0 && !is_waiting_for_time)
            fail("no response in 10 seconds");
        for (int i = 0; i < ready; i++) {
            Connection *connection = &connections[events[i].data.u32];
            if (!receive(connection))
                continue;
            at = now();
            latencies[answered++] = (float)(at - connection->due) / 1000;
            if (idle_count == 0)
                last_free = at;
            put_idle(events[i].data.u32);
        }
    }
    printf("requests %zu\nseconds %.6f\n", answered, (double)(at - begin) / 1e9);
    print_percentiles("latency", latencies, answered);
    print_percentiles("late", late, answered);
    return 0;
}
