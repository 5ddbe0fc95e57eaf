/* handshakes PORT FILE CONNECTIONS SECONDS full|resumed: a new TLS connection for each request.
 *
 * FILE has whole requests, each with a NUL behind it, which are sent in turn. Each of CONNECTIONS slots connects, completes
 * a handshake of TLS 1.3, sends a request, reads the response until the server closes, and begins anew. `full`: no
 * session is offered. `resumed`: each slot offers the last session that it was given, once; its first connection has
 * none. The key exchange is X25519 and the cipher AES-128-GCM, whatever the server prefers.
 *
 * Prints requests, how many of their connections were resumed, seconds, and percentiles in microseconds: of the time from
 * the beginning of a connection to the end of its response. Exit code 1: a response was not 200, a handshake failed, or
 * nothing came for 10 seconds.
 */

#define _GNU_SOURCE
#define PROGRAM "handshakes"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "load.h"

enum { MAX_EVENTS = 256, PATIENCE_SECONDS = 10, MAX_CONNECTIONS_PER_SECOND = 50000 };

typedef enum { HANDSHAKE, RESPONSE } Stage;

typedef struct {
    int fd;
    SSL *tls;
    SSL_SESSION *session; /* of the connection before; NULL: none */
    Stage stage;
    uint64_t begin;
    size_t received, whole; /* whole: bytes of the response; 0 until its head is complete */
    char response[MAX_RESPONSE + 1];
} Slot;

static SSL_CTX *context;
static struct sockaddr_in address;
static int poll_fd, is_resuming;
static Request *requests;
static size_t kinds, sent, answered, resumed;
static float *latencies;
static size_t most;

/* Fail with OpenSSL's reason, if there is one. */
static void fail_tls(const char *what)
{
    unsigned long code = ERR_get_error();
    if (code)
        fprintf(stderr, PROGRAM ": %s\n", ERR_reason_error_string(code));
    fail(what);
}

/* A session that the server has given: the slot keeps the last one. */
static int keep_session(SSL *tls, SSL_SESSION *session)
{
    Slot *slot = SSL_get_app_data(tls);
    if (!is_resuming)
        return 0;
    SSL_SESSION_free(slot->session);
    slot->session = session;
    return 1;
}

static void begin(Slot *slot)
{
    int on = 1;
    slot->begin = now();
    slot->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (slot->fd < 0 || (connect(slot->fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS))
        fail("cannot connect");
    setsockopt(slot->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    slot->tls = SSL_new(context);
    if (slot->tls == NULL || !SSL_set_fd(slot->tls, slot->fd) || !SSL_set_tlsext_host_name(slot->tls, "localhost"))
        fail_tls("no TLS object");
    SSL_set_app_data(slot->tls, slot);
    if (slot->session != NULL) {
        if (!SSL_set_session(slot->tls, slot->session))
            fail_tls("a session cannot be offered");
        SSL_SESSION_free(slot->session);
        slot->session = NULL;
    }
    SSL_set_connect_state(slot->tls);
    slot->stage = HANDSHAKE;
    slot->received = slot->whole = 0;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = slot};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, slot->fd, &event) != 0)
        fail("epoll_ctl failed");
}

static void end(Slot *slot)
{
    latencies[answered++] = (float)(now() - slot->begin) / 1000;
    resumed += SSL_session_reused(slot->tls) == 1;
    SSL_shutdown(slot->tls);
    SSL_free(slot->tls);
    close(slot->fd);
    slot->tls = NULL;
    slot->fd = -1;
}

/* Read what there is. Returns 1 when the server has closed the connection behind a whole response. */
static int receive(Slot *slot)
{
    for (;;) {
        int count = SSL_read(slot->tls, slot->response + slot->received, (int)(MAX_RESPONSE - slot->received));
        if (count > 0) {
            slot->received += (size_t)count;
            slot->response[slot->received] = '\0';
            if (!slot->whole)
                slot->whole = response_size(slot->response);
            if (slot->whole && slot->received > slot->whole)
                fail("there is more than a response");
            continue;
        }
        int error = SSL_get_error(slot->tls, count);
        if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
            return 0;
        if (!slot->whole || slot->received < slot->whole)
            fail("a connection was closed before its response was complete");
        ERR_clear_error();
        return 1;
    }
}

/* Go on with a connection. Returns 1 when it is over. */
static int go_on(Slot *slot)
{
    if (slot->stage == HANDSHAKE) {
        int done = SSL_do_handshake(slot->tls);
        if (done != 1) {
            int error = SSL_get_error(slot->tls, done);
            if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
                return 0;
            if (error == SSL_ERROR_SYSCALL && (errno == ENOTCONN || errno == EAGAIN))
                return 0; /* the socket is not connected yet */
            fail_tls("a handshake has failed");
        }
        const Request *request = &requests[sent++ % kinds];
        if (SSL_write(slot->tls, request->bytes, (int)request->length) != (int)request->length)
            fail("a request was not sent whole");
        slot->stage = RESPONSE;
    }
    return receive(slot);
}

static void make_context(void)
{
    context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256") || !SSL_CTX_set1_groups_list(context, "X25519"))
        fail_tls("no TLS context");
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, keep_session);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    /* Responses have a length. Otherwise an end without close_notify would make the session unusable. */
    SSL_CTX_set_options(context, SSL_OP_IGNORE_UNEXPECTED_EOF);
}

int main(int argc, char **argv)
{
    if (argc != 6 || (strcmp(argv[5], "full") != 0 && strcmp(argv[5], "resumed") != 0))
        fail("usage: handshakes PORT FILE CONNECTIONS SECONDS full|resumed");
    size_t count = strtoul(argv[3], NULL, 10);
    double seconds = strtod(argv[4], NULL);
    if (count == 0 || seconds <= 0)
        fail("CONNECTIONS and SECONDS must be positive");
    is_resuming = strcmp(argv[5], "resumed") == 0;
    kinds = read_requests(argv[2], &requests);
    address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    most = (size_t)(MAX_CONNECTIONS_PER_SECOND * seconds) + count;
    latencies = allocate(most, sizeof(float));
    make_context();
    poll_fd = epoll_create1(EPOLL_CLOEXEC);

    Slot *slots = allocate(count, sizeof(Slot));
    uint64_t start = now(), until = start + (uint64_t)(seconds * 1e9), at = start;
    size_t open = count;
    for (size_t i = 0; i < count; i++)
        begin(&slots[i]);
    struct epoll_event events[MAX_EVENTS];
    while (open > 0) {
        int ready = epoll_wait(poll_fd, events, MAX_EVENTS, PATIENCE_SECONDS * 1000);
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0)
            fail("no response in 10 seconds");
        for (int i = 0; i < ready; i++) {
            Slot *slot = events[i].data.ptr;
            if (!go_on(slot))
                continue;
            end(slot);
            at = now();
            if (at < until && answered < most - count)
                begin(slot);
            else
                open--;
        }
    }
    printf("requests %zu\nresumed %zu\nseconds %.6f\n", answered, resumed, (double)(at - start) / 1e9);
    print_percentiles("latency", latencies, answered);
    return 0;
}
