/* The fast path of plain requests, compiled: HTTPClientConnection.receive, PlainPath.start, Exchange.server_data and
 * PlainPath.receive, as far as all goes as it usually does. Whatever is unusual is left to these methods, before
 * anything has changed, or to methods of theirs that go on from there. So are the methods with which each client
 * connection begins and ends, which http/compiled.py puts into the classes.
 *
 * The objects are Python's own, with __slots__; their attributes are read and written at the slots' offsets. What is to
 * be done, and why, stands in http/plain_path.py.
 */

#define _GNU_SOURCE /* memrchr */
#include "../dispatch/_leases.h"
#include <math.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum { MAX_BUCKETS = 64, PLACES = 256, MAX_CACHED_REQUEST = 1024, MAX_WHOLE_REQUEST = 16384, MAX_WHOLE_RESPONSE = 65536,
       MAX_CHUNKS = 512 };

enum { C_STATE, C_IS_LAST, C_READER, C_LIMITS, C_LAST_ACTIVITY, C_HTTP, C_EXCHANGE, C_IS_FULL, C_HAS_ENDED, C_PENDING,
       C_HELD, C_CLIENT, C_CLOSES_AFTER, C_DISPATCHER, C_BODY, C_BODY_BYTES, C_HEAD_BEGAN, C_IS_SERVING_PENDING,
       C_IS_TURN_OVER, C_PROGRESS, C_CONTEXT, C_IS_OVER, C_RELAY, C_IS_RETIRING };
FIELDS(connection, "state", "is_last", "_reader", "limits", "last_activity", "_http", "exchange", "is_full", "has_ended",
       "pending", "held", "client", "closes_after", "dispatcher", "body", "_body_bytes", "_head_began", "_is_serving_pending",
       "_is_turn_over", "_progress", "context", "is_over", "relay", "_is_retiring");

enum { X_STARTED, X_OWNER, X_DISPATCHER, X_HTTP, X_MESSAGE, X_PLAIN, X_PLAIN_LOG, X_REPEATABLE, X_SERVER, X_BYTES_IN,
       X_BYTES_OUT, X_SETTLED, X_SENDER, X_FORWARDER, X_EDITS };
FIELDS(exchange, "started", "owner", "dispatcher", "http", "_message", "plain", "plain_log", "is_repeatable", "server",
       "bytes_in", "bytes_out", "settled", "sender", "forwarder", "edits");

enum { F_ACCESS_LOG, F_CACHE, F_CONNECTIONS, F_KEPT, F_SELECTOR, F_CHECKED, F_INTERVAL, F_CONTEXT,
       F_PLAIN_PATH, F_EDITS };
FIELDS(http, "access_log", "cache", "connections", "kept", "selector", "_checked", "_interval", "context",
       "plain_path", "edits");

enum { G_OWN };
FIELDS(service_edits, "own");

enum { E_SETTINGS };
FIELDS(service, "settings");

enum { V_EXCHANGE, V_CACHED, V_DESTINATION, V_WRITE, V_IS_REUSABLE };
FIELDS(server, "exchange", "cached_response", "destination", "write", "is_reusable");

enum { D_REQUEST, D_CHOICE, D_LEASE, D_FAILED, D_ENTRY, D_COMPLETED };
FIELDS(dispatcher, "request", "choice", "lease", "failed_connections", "entry", "completed");

enum { R_METHOD, R_TARGET, R_PATH, R_LINES, R_TRIED, R_FAILED, R_CLIENT, R_CONNECTION, R_IS_REPEATED, R_COMPLETED };
FIELDS(request, "method", "target", "path", "lines", "tried", "failed", "client", "connection", "is_repeated", "completed");

enum { S_SCHEDULER, S_USABLE, S_EXCLUDED, S_COMPLETED };
FIELDS(selector, "scheduler", "usable", "excluded", "completed");

enum { H_IS_ENABLED, H_FORWARDS, H_HAS_PROXIES, H_REQUESTS, H_SCAN, H_HEAD_SIZE, H_WHOLE_REQUESTS, H_WHOLE_RESPONSES };
FIELDS(cache, "is_enabled", "forwards", "has_proxies", "_requests", "scan", "head_size", "whole_requests", "whole_responses");

enum { B_HEADS, B_BODY_SIZE };
FIELDS(whole_requests, "_heads", "_body_size");

enum { G_PLAIN, G_ADDED, G_OUT, G_SIZE, G_TOTAL };
FIELDS(request_head, "plain", "added", "out", "size", "total");

enum { Z_HEADS, Z_TRAILERS };
FIELDS(whole_responses, "_heads", "_trailers");

enum { O_MODIFIERS };
FIELDS(modified_choice, "modifiers");

enum { Y_RATE };
FIELDS(modifiers, "rate");

enum { U_PEAK, U_STAMP, U_HISTOGRAM, U_LAST };
FIELDS(latency, "_peak", "_stamp", "histogram", "last");

enum { Q_FAILURES, Q_REQUESTS, Q_STAMP };
FIELDS(error_rate, "_failures", "_requests", "_stamp");

enum { J_DESTINATION, J_STATUS, J_FIRST_BYTE, J_TOTAL, J_BYTES_IN, J_BYTES_OUT, J_RETRIES, J_REASON, J_CLIENT };
FIELDS(outcome, "destination", "status", "first_byte", "total", "bytes_in", "bytes_out", "retries", "reason", "client");

enum { N_SECONDS };
FIELDS(latencies, "seconds");

enum { W_START, W_HEAD, W_TOTAL, W_ROW, W_AS_IS, W_STATUS, W_EDITS, W_KEPT };
FIELDS(response, "start", "head", "total", "row", "as_is", "status", "edits", "kept");

enum { M_WRITE, M_RESTING, M_DATA_RECEIVED, M_ENDED, M_LOST, M_IS_OPEN, M_TLS, M_PEER_ENDED };
FIELDS(stream, "write", "resting", "dataReceived", "ended", "lost", "is_open", "tls", "peer_ended");

enum { A_WRITER };
FIELDS(access_log, "writer");

enum { K_CONTEXT };
FIELDS(log_writer, "_context");

enum { P_DATA, P_OUT, P_METHOD, P_TARGET, P_LINES, P_MINOR, P_KEEP_ALIVE, P_BODY, P_HOST, P_CONNECTION, P_REFERER, P_USER_AGENT,
       P_COUNT };
FIELDS(plain, "data", "out", "method", "target", "lines", "minor", "keep_alive", "body", "host", "connection", "referer",
       "user_agent");

static PyTypeObject *base_type, *stream_connection_type;
static PyObject *idle_state, *sent_state, *whole_state, *closed_state, *closing, *no_bytes, *zero, *no_time, *nothing_moved,
    *event_finished, *event_client_gone;
static PyObject *plain_opened, *plain_client_lost, *plain_end_if_over;
static PyObject *reason_ok;

/* Stands for the `completed` of a request. */
static PyObject *by_chooser;
static double buckets[MAX_BUCKETS], decay;
static int bucket_count;
static PyObject *s_now, *s_receive, *s_begin, *s_start, *s_choose, *s_choice_failed, *s_choice_unusual, *s_with_lines,
    *s_pause, *s_resume, *s_scanned, *s_put, *s_end, *s_write_log, *s_write_plain, *s_tls, *s_finish, *s_read_for, *s_read_plain,
    *s_request_head,
    *s_response_head, *s_check_interval, *s_check_timeouts, *s_client_ended, *s_has_input, *s_read_with_body, *s_row,
    *s_client_lost, *s_close, *s_close_gracefully,
    *s_context, *s_init, *s_learning_failed,
    *s_set_backpressure, *s_set_timer, *s_settle, *s_transition, *s_wheel;

/* Sets a slot to a float. One that nothing else has is changed in place, so that none is made: whoever has read the slot
 * has a reference, and keeps the number. */
static inline int
put_float(PyObject **place, double number)
{
    if (*place != NULL && PyFloat_CheckExact(*place) && Py_REFCNT(*place) == 1) {
        ((PyFloatObject *)*place)->ob_fval = number;
        return 0;
    }
    return put_made(place, PyFloat_FromDouble(number));
}

static int
add(PyObject **place, long long more)
{
    if (*place == NULL || !PyLong_Check(*place)) {
        PyErr_SetString(PyExc_TypeError, "a counter is no int");
        return -1;
    }
    long long value = PyLong_AsLongLong(*place);
    if (value == -1 && PyErr_Occurred())
        return -1;
    return put_made(place, PyLong_FromLongLong(value + more));
}

static double
monotonic(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int
write_to(PyObject *write, PyObject *data)
{
    PyObject *result = PyObject_CallOneArg(write, data);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* True for the choice of a rule with modifiers that the fast path knows: it counts no rates. */
static inline int
is_modified(PyObject *object)
{
    if (!IS_A(object, modified_choice))
        return 0;
    PyObject *modifiers = SLOT(object, modified_choice, O_MODIFIERS);
    return IS_A(modifiers, modifiers) && SLOT(modifiers, modifiers, Y_RATE) == Py_None;
}

/* True for a client connection of HTTP/1, and for that of a stream of HTTP/2, which has the same slots. */
static inline int
is_connection(PyObject *object)
{
    return IS_A(object, connection) || (object != NULL && Py_TYPE(object) == stream_connection_type);
}

static inline int
is_usual_choice(PyObject *object)
{
    return (IS_A(object, choice) || is_modified(object)) && is_proper(object);
}

/* True unless it is an empty set, as Dispatcher.begin leaves it. A scheduler can have put anything there. */
static inline int
is_used_set(PyObject *object)
{
    return object == NULL || !PyAnySet_Check(object) || PySet_GET_SIZE(object);
}

/* What receives a client's data, or a server's: a callable for Stream.dataReceived. */
typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *owner; /* the client connection, or the server connection */
    PyObject *wheel;
} Receiver;

static PyObject *
unusual(Receiver *self, PyObject *data)
{
    if (self->owner == NULL) /* the garbage collector has cleared it: its connection is gone */
        return Py_NewRef(Py_None);
    PyObject *owner = Py_NewRef(self->owner); /* the call can replace this receiver, and so free it */
    PyObject *result = PyObject_CallMethodOneArg(owner, s_receive, data);
    Py_DECREF(owner);
    return result;
}

/* True for a connection whose client is a Stream: a stage of its preamble may have put another one in between. */
static inline int
has_stream(PyObject *connection)
{
    PyObject *client = SLOT(connection, connection, C_CLIENT);
    return client != NULL && PyObject_TypeCheck(client, stream_layout.type);
}

static inline int
has_body(PyObject *plain)
{
    return !is_no_bytes(SLOT(plain, plain, P_BODY));
}

/* Whether a server connection can carry a plain request: one that cannot be sent again gets none on which unread data or a
 * FIN of the server waits. -1 with an exception. */
static int
can_carry(PyObject *server, PyObject *plain)
{
    if (!IS_A(server, server))
        return 0;
    if (!has_body(plain))
        return 1;
    PyObject *has_input = PyObject_CallMethodNoArgs(server, s_has_input);
    int result = has_input == NULL ? -1 : PyObject_Not(has_input);
    Py_XDECREF(has_input);
    return result;
}

/* Whole messages with a body, whose heads http/whole_messages.py has parsed before. */

static inline int
hex_digit(char byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* chunks_end of protocols/http1/body.py. */
static Py_ssize_t
chunks_end(const char *text, Py_ssize_t size, Py_ssize_t at)
{
    enum { MAX_DIGITS = 15 };
    for (int count = 0; count < MAX_CHUNKS; count++) {
        long long length = 0;
        int digits = 0, digit;
        while (digits < MAX_DIGITS && at < size && (digit = hex_digit(text[at])) >= 0) {
            length = length << 4 | digit;
            digits++;
            at++;
        }
        if (!digits || size - at < 2 || text[at] != '\r' || text[at + 1] != '\n')
            return -1;
        at += 2;
        if (!length)
            return at;
        if (length > size - at - 2 || text[at + length] != '\r' || text[at + length + 1] != '\n')
            return -1;
        at += (Py_ssize_t)length + 2;
    }
    return -1;
}

/* The size of the head with which `data` begins; 0: it is not complete. */
static Py_ssize_t
head_size_of(PyObject *data)
{
    const char *text = PyBytes_AS_STRING(data), *end = memmem(text, (size_t)PyBytes_GET_SIZE(data), "\r\n\r\n", 4);
    return end == NULL ? 0 : end + 4 - text;
}

/* What a dict has for the first bytes of `data`, borrowed. NULL, perhaps without an exception: nothing. */
static PyObject *
find_head(PyObject *heads, PyObject *data, Py_ssize_t size)
{
    PyObject *head = PyBytes_FromStringAndSize(PyBytes_AS_STRING(data), size);
    PyObject *found = head == NULL ? NULL : PyDict_GetItemWithError(heads, head);
    Py_XDECREF(head);
    return found;
}

static PyObject *
joined(PyObject *head, const char *more, Py_ssize_t size)
{
    Py_ssize_t head_size = PyBytes_GET_SIZE(head);
    PyObject *made = PyBytes_FromStringAndSize(NULL, head_size + size);
    if (made != NULL) {
        memcpy(PyBytes_AS_STRING(made), PyBytes_AS_STRING(head), (size_t)head_size);
        memcpy(PyBytes_AS_STRING(made) + head_size, more, (size_t)size);
    }
    return made;
}

/* WholeRequests.read for a head that is known, and to which nothing is added; a new reference. NULL, perhaps without an
 * exception: that method must read it. */
static PyObject *
read_whole(PyObject *whole, PyObject *data)
{
    Py_ssize_t size = PyBytes_GET_SIZE(data), head_size = size <= MAX_WHOLE_REQUEST ? head_size_of(data) : 0;
    if (!head_size || !IS_A(whole, whole_requests))
        return NULL;
    PyObject *known = find_head(SLOT(whole, whole_requests, B_HEADS), data, head_size);
    if (!IS_A(known, request_head) || !is_no_bytes(SLOT(known, request_head, G_ADDED)) ||
        is_no_bytes(SLOT(known, request_head, G_OUT)))
        return NULL;
    const char *text = PyBytes_AS_STRING(data);
    Py_ssize_t total = PyLong_AsSsize_t(SLOT(known, request_head, G_TOTAL));
    if (total >= 0 ? total != size
                   : size - head_size > PyLong_AsSsize_t(SLOT(whole, whole_requests, B_BODY_SIZE)) ||
                         memcmp(text + size - 4, "\r\n\r\n", 4) != 0 || chunks_end(text, size, head_size) != size - 2)
        return NULL;
    PyObject *template = SLOT(known, request_head, G_PLAIN);
    PyObject *made = IS_A(template, plain) ? plain_layout.type->tp_alloc(plain_layout.type, 0) : NULL;
    if (made == NULL)
        return NULL;
    for (int i = 0; i < P_COUNT; i++)
        if (i != P_DATA && i != P_OUT && i != P_BODY)
            SLOT(made, plain, i) = Py_XNewRef(SLOT(template, plain, i));
    SLOT(made, plain, P_DATA) = Py_NewRef(data);
    SLOT(made, plain, P_BODY) = PyBytes_FromStringAndSize(text + head_size, size - head_size);
    SLOT(made, plain, P_OUT) = joined(SLOT(known, request_head, G_OUT), text + head_size, size - head_size);
    if (SLOT(made, plain, P_BODY) == NULL || SLOT(made, plain, P_OUT) == NULL)
        Py_CLEAR(made);
    return made;
}

/* HeadCache.read_with_body */
static PyObject *
read_with_body(PyObject *cache, PyObject *data, PyObject *client)
{
    if (SLOT(cache, cache, H_FORWARDS) == Py_False) {
        PyObject *found = read_whole(SLOT(cache, cache, H_WHOLE_REQUESTS), data);
        if (found != NULL || PyErr_Occurred())
            return found;
    }
    return PyObject_CallMethodObjArgs(cache, s_read_with_body, data, client, NULL);
}

/* PlainPath._chunked for a head and trailers that are known; a new reference. NULL, perhaps without an exception: the
 * methods in Python must read it. */
static PyObject *
known_chunked(PyObject *server, PyObject *http, PyObject *data)
{
    PyObject *cache = SLOT(http, http, F_CACHE), *whole = IS_A(cache, cache) ? SLOT(cache, cache, H_WHOLE_RESPONSES) : NULL;
    PyObject *log = SLOT(http, http, F_ACCESS_LOG);
    Py_ssize_t size = PyBytes_GET_SIZE(data);
    const char *text = PyBytes_AS_STRING(data);
    if (!IS_A(whole, whole_responses) || size > MAX_WHOLE_RESPONSE || size < 4 || memcmp(text + size - 4, "\r\n\r\n", 4) != 0 ||
        SLOT(server, server, V_IS_REUSABLE) != Py_True || !IS_A(log, access_log) || SLOT(log, access_log, A_WRITER) != Py_None)
        return NULL;
    Py_ssize_t head_size = head_size_of(data);
    PyObject *known = find_head(SLOT(whole, whole_responses, Z_HEADS), data, head_size);
    if (known == NULL || !PyTuple_CheckExact(known) || PyTuple_GET_SIZE(known) != 3 ||
        head_size > PyLong_AsSsize_t(SLOT(cache, cache, H_HEAD_SIZE)))
        return NULL;
    Py_ssize_t end = chunks_end(text, size, head_size);
    if (end < 0)
        return NULL;
    PyObject *trailers = PyBytes_FromStringAndSize(text + end, size - end);
    int has_trailers = trailers == NULL ? -1 : PySet_Contains(SLOT(whole, whole_responses, Z_TRAILERS), trailers);
    Py_XDECREF(trailers);
    if (has_trailers < 1)
        return NULL;
    PyObject *latencies = SLOT(SLOT(server, server, V_DESTINATION), destination, T_LATENCIES);
    PyObject *status = Py_NewRef(PyTuple_GET_ITEM(known, 0)), *head = Py_NewRef(PyTuple_GET_ITEM(known, 2));
    PyObject *row = PyObject_CallMethodOneArg(latencies, s_row, status); /* may forget `known` */
    PyObject *made = row == NULL ? NULL : response_layout.type->tp_alloc(response_layout.type, 0);
    if (made == NULL) {
        Py_XDECREF(row);
        Py_DECREF(status);
        Py_DECREF(head);
        return NULL;
    }
    SLOT(made, response, W_ROW) = row;
    SLOT(made, response, W_STATUS) = status;
    SLOT(made, response, W_HEAD) = head;
    SLOT(made, response, W_EDITS) = Py_NewRef(Py_None);
    SLOT(made, response, W_KEPT) = Py_NewRef(head);
    SLOT(made, response, W_AS_IS) = PyBool_FromLong(head_size == PyBytes_GET_SIZE(head) + 2);
    SLOT(made, response, W_START) = PyBytes_FromStringAndSize(text, head_size);
    SLOT(made, response, W_TOTAL) = PyLong_FromSsize_t(size);
    if (SLOT(made, response, W_START) == NULL || SLOT(made, response, W_TOTAL) == NULL)
        Py_CLEAR(made);
    return made;
}

/* Returns the plain request that `data` is, a new reference; None for another one. */
static PyObject *
read_plain(PyObject *connection, PyObject *cache, PyObject *data, PyObject *request)
{
    if (SLOT(cache, cache, H_HAS_PROXIES) != Py_False)
        return PyObject_CallMethodOneArg(connection, s_read_plain, data);
    if (PyBytes_GET_SIZE(data) < 4 || memcmp(PyBytes_AS_STRING(data), "GET ", 4) != 0)
        return read_with_body(cache, data, SLOT(request, request, R_CLIENT));
    if (SLOT(cache, cache, H_FORWARDS) != Py_False)
        return PyObject_CallMethodObjArgs(cache, s_read_for, data, SLOT(request, request, R_CLIENT), NULL);
    PyObject *requests = SLOT(cache, cache, H_REQUESTS);
    Py_ssize_t size = PyBytes_GET_SIZE(data), place = size & (PLACES - 1);
    PyObject *known = PyList_GET_ITEM(requests, place);
    if (IS_A(known, plain)) {
        PyObject *old = SLOT(known, plain, P_DATA);
        if (PyBytes_GET_SIZE(old) == size && memcmp(PyBytes_AS_STRING(old), PyBytes_AS_STRING(data), (size_t)size) == 0)
            return Py_NewRef(known);
    }
    PyObject *arguments[] = {data, no_bytes};
    PyObject *found = PyObject_Vectorcall(SLOT(cache, cache, H_SCAN), arguments, 2, NULL);
    if (IS_A(found, plain) && size <= MAX_CACHED_REQUEST)
        PyList_SetItem(requests, place, Py_NewRef(found));
    return found;
}

/* The line that contains the byte at `at`: where it begins. */
static Py_ssize_t
line_at(const char *lines, Py_ssize_t at)
{
    const char *end = at > 0 ? memrchr(lines, '\n', (size_t)at) : NULL;
    return end == NULL ? 0 : end - lines + 1;
}

static inline int
has_name(const char *line, Py_ssize_t size, const char *name, Py_ssize_t length)
{
    return size > length && strncasecmp(line, name, (size_t)length) == 0 && line[length] == ':';
}

#define HAS_NAME(line, size, name) has_name(line, size, name, sizeof(name) - 1)

static Py_ssize_t
common_prefix(const char *one, const char *other, Py_ssize_t size)
{
    enum { STEP = 32 };
    Py_ssize_t at = 0;
    while (size - at >= STEP && memcmp(one + at, other + at, STEP) == 0)
        at += STEP;
    while (at < size && one[at] == other[at])
        at++;
    return at;
}

/* What PlainPath.with_lines returns for a scheduler that has only cut something out of one Cookie line, or that whole line:
 * the head for the server without that part, a new reference. The head was checked as it came, and a part less of a
 * cookie's text leaves it as valid. NULL, perhaps without an exception: the lines differ in another way. */
static PyObject *
without_cookie(PyObject *plain, PyObject *lines)
{
    PyObject *old = SLOT(plain, plain, P_LINES), *out = SLOT(plain, plain, P_OUT), *target = SLOT(plain, plain, P_TARGET);
    const char *before = PyBytes_AS_STRING(old), *after = PyBytes_AS_STRING(lines), *head = PyBytes_AS_STRING(out);
    Py_ssize_t size = PyBytes_GET_SIZE(old), cut = size - PyBytes_GET_SIZE(lines), out_size = PyBytes_GET_SIZE(out);
    if (cut <= 0)
        return NULL;
    Py_ssize_t at = common_prefix(before, after, size - cut);
    if (memcmp(before + at + cut, after + at, (size_t)(size - cut - at)) != 0)
        return NULL;
    Py_ssize_t line = line_at(before, at);
    const char *end = memchr(before + at, '\n', (size_t)cut);
    if (end != NULL) { /* a whole line, of which the next one may share the first bytes */
        if (memcmp(before + line, before + line + cut, (size_t)(at - line)) != 0)
            return NULL;
        at = line;
        end = memchr(before + at, '\n', (size_t)cut);
        if (end == NULL || end + 1 != before + at + cut)
            return NULL;
    }
    else if (at < line + (Py_ssize_t)sizeof "Cookie" || memchr(before + at, '\r', (size_t)cut) != NULL)
        return NULL;
    if (!HAS_NAME(before + line, size - line, "Cookie"))
        return NULL;
    /* Where that is in the head, from which a Connection line may have been cut. */
    Py_ssize_t start = 4 + PyBytes_GET_SIZE(target) + 11; /* of the lines: GET target HTTP/1.1 */
    Py_ssize_t known = out_size - start < at + cut ? out_size - start : at + cut;
    Py_ssize_t same = known < 0 ? 0 : common_prefix(before, head + start, known), shorter = 0;
    if (same < at + cut) {
        Py_ssize_t other = line_at(before, same);
        const char *other_end = memchr(before + other, '\n', (size_t)(size - other));
        shorter = other_end == NULL ? 0 : other_end + 1 - (before + other);
        if (shorter == 0 || other + shorter > at || start + at + cut - shorter > out_size || !HAS_NAME(before + other, shorter, "Connection") ||
            memcmp(before + other + shorter, head + start + other, (size_t)(at + cut - other - shorter)) != 0)
            return NULL;
    }
    Py_ssize_t place = start + at - shorter;
    PyObject *made = PyBytes_FromStringAndSize(NULL, out_size - cut);
    if (made == NULL)
        return NULL;
    memcpy(PyBytes_AS_STRING(made), head, (size_t)place);
    memcpy(PyBytes_AS_STRING(made) + place, head + place + cut, (size_t)(out_size - cut - place));
    return made;
}

/* The PlainPath of an exchange; borrowed. */
static inline PyObject *
plain_path(PyObject *exchange)
{
    return SLOT(SLOT(exchange, exchange, X_HTTP), http, F_PLAIN_PATH);
}

/* Calls a method of the PlainPath of an exchange, and drops its result. */
static int
call_path(PyObject *exchange, PyObject *name, PyObject *argument)
{
    PyObject *result = PyObject_CallMethodObjArgs(plain_path(exchange), name, exchange, argument, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* The head of a plain request with the lines that the scheduler has returned, a new reference. */
static PyObject *
with_lines(PyObject *exchange, PyObject *plain, PyObject *lines)
{
    PyObject *made = PyBytes_CheckExact(lines) ? without_cookie(plain, lines) : NULL;
    if (made != NULL || PyErr_Occurred())
        return made;
    return PyObject_CallMethodObjArgs(plain_path(exchange), s_with_lines, exchange, plain, lines, NULL);
}

/* True where neither the service nor the rule of a choice edits messages. */
static inline int
is_unedited(PyObject *http, PyObject *choice)
{
    PyObject *edits = SLOT(http, http, F_EDITS);
    return IS_A(choice, choice) && IS_A(edits, service_edits) && SLOT(edits, service_edits, G_OWN) == Py_None;
}

/* True where the head of a request is sent as it came. */
static inline int
goes_on_as_it_came(PyObject *http, PyObject *choice)
{
    return is_unedited(http, choice) && SLOT(choice, choice, O_LINES) == Py_None;
}

/* PlainPath.request_head, a new reference. */
static PyObject *
request_head(PyObject *exchange, PyObject *http, PyObject *plain, PyObject *choice)
{
    PyObject *lines = SLOT(choice, choice, O_LINES);
    if (!is_unedited(http, choice))
        return PyObject_CallMethodObjArgs(SLOT(http, http, F_PLAIN_PATH), s_request_head, exchange, plain, choice, NULL);
    return lines == Py_None ? Py_NewRef(SLOT(plain, plain, P_OUT)) : with_lines(exchange, plain, lines);
}

/* PlainPath.start. */
static int
start_plain(PyObject *connection, PyObject *exchange, PyObject *plain)
{
    PyObject *dispatcher = SLOT(exchange, exchange, X_DISPATCHER), *http = SLOT(exchange, exchange, X_HTTP);
    PyObject *selector = SLOT(http, http, F_SELECTOR);
    PyObject *request = SLOT(dispatcher, dispatcher, D_REQUEST);
    if (put_made(&SLOT(exchange, exchange, X_STARTED), PyFloat_FromDouble(monotonic())) < 0)
        return -1;
    put_new(&SLOT(request, request, R_METHOD), SLOT(plain, plain, P_METHOD));
    put_new(&SLOT(request, request, R_LINES), SLOT(plain, plain, P_LINES));
    put_new(&SLOT(request, request, R_TARGET), SLOT(plain, plain, P_TARGET));
    put_new(&SLOT(request, request, R_PATH), SLOT(plain, plain, P_TARGET));
    put_new(&SLOT(request, request, R_TRIED), SLOT(selector, selector, S_EXCLUDED));
    if (IS(request, request, R_IS_REPEATED) || is_used_set(SLOT(request, request, R_FAILED)) ||
        PyTuple_GET_SIZE(SLOT(dispatcher, dispatcher, D_FAILED)))
        if (call(dispatcher, s_begin, NULL) < 0)
            return -1;
    put_new(&SLOT(exchange, exchange, X_MESSAGE), Py_None);
    put_new(&SLOT(exchange, exchange, X_PLAIN), plain);
    put_new(&SLOT(exchange, exchange, X_EDITS), Py_None);
    PyObject *writer = SLOT(SLOT(http, http, F_ACCESS_LOG), access_log, A_WRITER);
    if (writer != Py_None) {
        PyObject *started = PyObject_CallMethodNoArgs(writer, s_start);
        if (started == NULL)
            return -1;
        PyObject *logged = Py_BuildValue("(ON(OO))", writer, started, SLOT(exchange, exchange, X_BYTES_IN),
                                         SLOT(exchange, exchange, X_BYTES_OUT));
        if (put_made(&SLOT(exchange, exchange, X_PLAIN_LOG), logged) < 0)
            return -1;
    }
    if (SLOT(plain, plain, P_KEEP_ALIVE) != Py_True) {
        put_new(&SLOT(connection, connection, C_IS_LAST), Py_True);
        put_new(&SLOT(connection, connection, C_CLOSES_AFTER), Py_True);
        put_new(&SLOT(SLOT(connection, connection, C_CLIENT), stream, M_RESTING), Py_True);
    }
    PyObject *scheduler = Py_NewRef(SLOT(selector, selector, S_SCHEDULER)); /* an edit in a plugin can replace it */
    PyObject *choice = PyObject_CallMethodOneArg(scheduler, s_choose, request);
    Py_DECREF(scheduler);
    if (choice == NULL) {
        PyObject *type, *error, *traceback;
        PyErr_Fetch(&type, &error, &traceback);
        PyErr_NormalizeException(&type, &error, &traceback);
        if (traceback)
            PyException_SetTraceback(error, traceback);
        int result = call_path(exchange, s_choice_failed, error);
        Py_XDECREF(type);
        Py_XDECREF(error);
        Py_XDECREF(traceback);
        return result;
    }
    int result = -1;
    PyObject *server = NULL, *out = NULL, *idle = NULL, *destination = NULL;
    if (is_usual_choice(choice) && (!has_body(plain) || goes_on_as_it_came(http, choice))) {
        destination = Py_NewRef(SLOT(choice, choice, O_DESTINATION));
        idle = Py_XNewRef(PyDict_GetItemWithError(SLOT(http, http, F_KEPT), destination));
        if (idle == NULL && PyErr_Occurred())
            goto done;
    }
    Py_ssize_t count = idle ? PyList_GET_SIZE(idle) : 0;
    if (!count || PySet_Contains(SLOT(selector, selector, S_USABLE), destination) != 1 ||
        !is_zero(SLOT(destination, destination, T_MAXCONN))) {
        result = PyErr_Occurred() ? -1 : call_path(exchange, s_choice_unusual, choice);
        goto done;
    }
    server = Py_NewRef(PyList_GET_ITEM(idle, count - 1));
    if (PyList_SetSlice(idle, count - 1, count, NULL) < 0)
        goto done;
    int can = can_carry(server, plain);
    if (can < 1) {
        result = can < 0 || PyList_Append(idle, server) < 0 ? -1 : call_path(exchange, s_choice_unusual, choice);
        goto done;
    }
    put_new(&SLOT(dispatcher, dispatcher, D_CHOICE), choice);
    PyObject *completed = SLOT(choice, choice, O_COMPLETED);
    if (completed == Py_None)
        completed = SLOT(selector, selector, S_COMPLETED);
    if (completed == by_chooser)
        completed = SLOT(request, request, R_COMPLETED);
    if (completed != NULL && completed != Py_None) /* a scheduler can have deleted it */
        put_new(&SLOT(dispatcher, dispatcher, D_COMPLETED), completed);
    if (put_made(&SLOT(dispatcher, dispatcher, D_LEASE), make_lease(destination)) < 0 ||
        add(&SLOT(destination, destination, T_TOTAL), 1) < 0 || add(&SLOT(destination, destination, T_REUSED), 1) < 0)
        goto done;
    SET(exchange, exchange, X_REPEATABLE, !has_body(plain));
    put_new(&SLOT(exchange, exchange, X_SERVER), server);
    put_new(&SLOT(server, server, V_EXCHANGE), exchange);
    put_new(&SLOT(connection, connection, C_STATE), sent_state);
    out = request_head(exchange, http, plain, choice);
    if (out == NULL || add(&SLOT(exchange, exchange, X_BYTES_IN), PyBytes_Size(out)) < 0)
        goto done;
    PyObject *write = Py_NewRef(SLOT(server, server, V_WRITE));
    result = write_to(write, out);
    Py_DECREF(write);
    if (result == 0 && SLOT(connection, connection, C_IS_FULL) == Py_True)
        result = call(server, s_pause, NULL);
done:
    Py_XDECREF(out);
    Py_XDECREF(server);
    Py_XDECREF(idle);
    Py_XDECREF(destination);
    Py_DECREF(choice);
    return result;
}

/* The argument of a receiver; borrowed. NULL with an exception. */
static inline PyObject *
data_of(PyObject *const *args, size_t count, PyObject *names)
{
    if (PyVectorcall_NARGS(count) == 1 && names == NULL)
        return args[0];
    PyErr_SetString(PyExc_TypeError, "data is the only argument");
    return NULL;
}

/* HTTPClientConnection.receive. */
static PyObject *
client_receives(PyObject *callable, PyObject *const *args, size_t count, PyObject *names)
{
    Receiver *self = (Receiver *)callable;
    PyObject *data = data_of(args, count, names), *connection = self->owner;
    if (data == NULL)
        return NULL;
    if (!is_connection(connection) || !PyBytes_CheckExact(data))
        return unusual(self, data);
    PyObject *http = SLOT(connection, connection, C_HTTP), *exchange = SLOT(connection, connection, C_EXCHANGE);
    PyObject *cache = SLOT(http, http, F_CACHE);
    if (!has_stream(connection) || SLOT(connection, connection, C_STATE) != idle_state || SLOT(connection, connection, C_IS_LAST) != Py_False ||
        SLOT(connection, connection, C_READER) != Py_None || SLOT(connection, connection, C_LIMITS) != Py_None ||
        !IS_A(cache, cache) || SLOT(cache, cache, H_IS_ENABLED) != Py_True || !IS_A(exchange, exchange))
        return unusual(self, data);
    PyObject *request = SLOT(SLOT(exchange, exchange, X_DISPATCHER), dispatcher, D_REQUEST);
    PyObject *plain = read_plain(connection, cache, data, request);
    if (plain == NULL)
        return NULL;
    if (!IS_A(plain, plain)) {
        Py_DECREF(plain);
        return unusual(self, data);
    }
    int result = put_made(&SLOT(connection, connection, C_LAST_ACTIVITY), PyObject_GetAttr(self->wheel, s_now));
    if (result == 0) {
        Py_INCREF(connection);
        Py_INCREF(exchange);
        result = start_plain(connection, exchange, plain);
        Py_DECREF(exchange);
        Py_DECREF(connection);
    }
    Py_DECREF(plain);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

/* The response as it goes on to the client with edits, a new reference. */
static PyObject *
edited(PyObject *exchange, PyObject *plain, PyObject *known, PyObject *data)
{
    PyObject *head = PyObject_CallMethodObjArgs(plain_path(exchange), s_response_head, exchange, plain, known, NULL);
    Py_ssize_t start = PyBytes_GET_SIZE(SLOT(known, response, W_START)), body = PyBytes_GET_SIZE(data) - start;
    Py_ssize_t size = head == NULL ? -1 : PyBytes_Size(head); /* -1 with an exception if it is no bytes */
    PyObject *made = size < 0 ? NULL : PyBytes_FromStringAndSize(NULL, size + body);
    if (made != NULL) {
        memcpy(PyBytes_AS_STRING(made), PyBytes_AS_STRING(head), (size_t)size);
        memcpy(PyBytes_AS_STRING(made) + size, PyBytes_AS_STRING(data) + start, (size_t)body);
    }
    Py_XDECREF(head);
    return made;
}

/* The response as it goes on to the client, a new reference. */
static PyObject *
onward(PyObject *known, PyObject *added, PyObject *data, int is_last)
{
    if (!is_last && is_no_bytes(added) && SLOT(known, response, W_AS_IS) == Py_True)
        return Py_NewRef(data);
    PyObject *head = SLOT(known, response, W_HEAD), *end = closing;
    Py_ssize_t start = PyBytes_GET_SIZE(SLOT(known, response, W_START)), body = PyBytes_GET_SIZE(data) - start;
    Py_ssize_t head_size = PyBytes_GET_SIZE(head), added_size = PyBytes_GET_SIZE(added);
    Py_ssize_t end_size = is_last ? PyBytes_GET_SIZE(end) : 2;
    PyObject *made = PyBytes_FromStringAndSize(NULL, head_size + added_size + end_size + body);
    if (made == NULL)
        return NULL;
    char *at = PyBytes_AS_STRING(made);
    memcpy(at, PyBytes_AS_STRING(head), (size_t)head_size);
    memcpy(at += head_size, PyBytes_AS_STRING(added), (size_t)added_size);
    memcpy(at += added_size, is_last ? PyBytes_AS_STRING(end) : "\r\n", (size_t)end_size);
    memcpy(at + end_size, PyBytes_AS_STRING(data) + start, (size_t)body);
    return made;
}

/* The weight of what was measured at `stamp`. */
static inline double
weight_of_past(double stamp, double now)
{
    return now > stamp ? exp((stamp - now) / decay) : 1.0;
}

/* Reads a number that usually is a float. Returns -1 with an exception. */
static inline int
read_float(PyObject *value, double *number)
{
    if (value != NULL && PyFloat_CheckExact(value)) {
        *number = PyFloat_AS_DOUBLE(value);
        return 0;
    }
    *number = PyFloat_AsDouble(value);
    return *number == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* Latency.record. bucket: that of the time. stamp, left: when something was measured before, and its weight now. */
static int
record_latency(PyObject *latency, double seconds, double now, int bucket, double *stamp, double *left)
{
    PyObject *histogram = SLOT(latency, latency, U_HISTOGRAM); /* which schedulers can reach */
    if (histogram == NULL || !PyList_Check(histogram) || PyList_GET_SIZE(histogram) <= bucket) {
        PyErr_SetString(PyExc_IndexError, "the histogram of a latency has too few counts");
        return -1;
    }
    double peak;
    if (read_float(SLOT(latency, latency, U_STAMP), stamp) < 0 || read_float(SLOT(latency, latency, U_PEAK), &peak) < 0)
        return -1;
    *left = weight_of_past(*stamp, now);
    peak *= *left;
    if (add(&PyList_GET_ITEM(histogram, bucket), 1) < 0 ||
        put_float(&SLOT(latency, latency, U_LAST), seconds) < 0 || put_float(&SLOT(latency, latency, U_STAMP), now) < 0)
        return -1;
    return put_float(&SLOT(latency, latency, U_PEAK), seconds >= peak ? seconds : peak + seconds * (1.0 - *left));
}

/* ErrorRate.record for a request that has not failed. stamp, left: of the latency; they have them in common once both are
 * measured. */
static int
record_success(PyObject *rate, double now, double stamp, double left)
{
    double before, requests, failures;
    if (read_float(SLOT(rate, error_rate, Q_STAMP), &before) < 0 ||
        read_float(SLOT(rate, error_rate, Q_REQUESTS), &requests) < 0 ||
        read_float(SLOT(rate, error_rate, Q_FAILURES), &failures) < 0)
        return -1;
    if (before != stamp)
        left = weight_of_past(before, now);
    if (put_float(&SLOT(rate, error_rate, Q_REQUESTS), requests * left + 1.0) < 0 ||
        (failures != 0.0 && put_float(&SLOT(rate, error_rate, Q_FAILURES), failures * left) < 0))
        return -1;
    return put_float(&SLOT(rate, error_rate, Q_STAMP), now);
}

/* Records a response at a server of which schedulers have read what is measured. */
static int
measure(PyObject *destination, double took, double now, int bucket)
{
    PyObject *latency = Py_XNewRef(SLOT(destination, destination, T_MEASURED_LATENCY));
    PyObject *errors = Py_XNewRef(SLOT(destination, destination, T_MEASURED_ERRORS));
    double stamp = NAN, left = 1;
    int result = IS_A(latency, latency) ? record_latency(latency, took, now, bucket, &stamp, &left) : 0;
    if (result == 0 && IS_A(errors, error_rate))
        result = record_success(errors, now, stamp, left);
    Py_XDECREF(latency);
    Py_XDECREF(errors);
    return result;
}

/* The last outcome, which is filled in again if no scheduler has kept it; NULL: there was none. Until then it keeps its
 * server, which costs less than to forget it for each request. bytes_in, bytes_out: the numbers in it, both as objects,
 * which it owns, and as C has them. */
static struct {
    PyObject *outcome, *bytes_in, *bytes_out;
    long long in, out;
} last;

/* Sets a slot and notes what is in it, unless it still has the object that was noted, for the same number. */
static inline int
put_number(PyObject **place, long long number, PyObject **known, long long *before)
{
    if (*place != NULL && *place == *known && number == *before)
        return 0;
    if (put_made(place, PyLong_FromLongLong(number)) < 0)
        return -1;
    *known = *place;
    *before = number;
    return 0;
}

/* value: NULL for what a scheduler has deleted from a request. */
static inline void
put_other(PyObject **place, PyObject *value)
{
    if (*place != value)
        put(place, Py_XNewRef(value));
}

/* Sets both times of an outcome. The number in it is written again where nobody else has it. */
static inline int
put_times(PyObject *outcome, double seconds)
{
    PyObject **first = &SLOT(outcome, outcome, J_FIRST_BYTE), **total = &SLOT(outcome, outcome, J_TOTAL);
    if (*first != NULL && *first == *total && PyFloat_CheckExact(*first) && Py_REFCNT(*first) == 2) {
        ((PyFloatObject *)*first)->ob_fval = seconds;
        return 0;
    }
    if (put_made(first, PyFloat_FromDouble(seconds)) < 0)
        return -1;
    put_new(total, *first);
    return 0;
}

/* A new outcome, in `last`. */
static int
begin_outcome(void)
{
    if (put_made(&last.outcome, outcome_layout.type->tp_alloc(outcome_layout.type, 0)) < 0)
        return -1;
    SLOT(last.outcome, outcome, J_RETRIES) = Py_NewRef(zero); /* as in all outcomes of the fast path */
    SLOT(last.outcome, outcome, J_REASON) = Py_NewRef(reason_ok);
    return 0;
}

/* The outcome of a plain request, a new reference. */
static inline PyObject *
make_outcome(PyObject *destination, PyObject *client, PyObject *known, double took, long long in, long long out)
{
    if ((last.outcome == NULL || Py_REFCNT(last.outcome) != 1) && begin_outcome() < 0)
        return NULL;
    PyObject *self = last.outcome;
    if (put_times(self, took) < 0 || put_number(&SLOT(self, outcome, J_BYTES_IN), in, &last.bytes_in, &last.in) < 0 ||
        put_number(&SLOT(self, outcome, J_BYTES_OUT), out, &last.bytes_out, &last.out) < 0)
        return NULL;
    put_other(&SLOT(self, outcome, J_DESTINATION), destination);
    put_other(&SLOT(self, outcome, J_STATUS), SLOT(known, response, W_STATUS));
    put_other(&SLOT(self, outcome, J_CLIENT), client);
    return Py_NewRef(self);
}

/* Calls `completed`. Nearly always it is a method in Python, whose function is called without a step in between. */
static inline int
call_completed(PyObject *completed, PyObject *outcome)
{
    if (!PyMethod_Check(completed) || !PyFunction_Check(PyMethod_GET_FUNCTION(completed)))
        return write_to(completed, outcome);
    PyObject *function = PyMethod_GET_FUNCTION(completed), *arguments[] = {PyMethod_GET_SELF(completed), outcome};
    PyObject *result = ((PyFunctionObject *)function)->vectorcall(function, arguments, 2, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Tells a scheduler that learns the outcome of a plain request. */
static int
tell_outcome(PyObject *exchange, PyObject *destination, PyObject *known, double took, long long in, long long out)
{
    PyObject *dispatcher = SLOT(exchange, exchange, X_DISPATCHER);
    PyObject *completed = SLOT(dispatcher, dispatcher, D_COMPLETED);
    SLOT(dispatcher, dispatcher, D_COMPLETED) = Py_NewRef(Py_None);
    PyObject *client = SLOT(SLOT(dispatcher, dispatcher, D_REQUEST), request, R_CLIENT);
    PyObject *outcome = make_outcome(destination, client, known, took, in, out);
    int result = outcome == NULL ? -1 : call_completed(completed, outcome);
    if (result < 0)
        result = handle_any(SLOT(SLOT(exchange, exchange, X_HTTP), http, F_SELECTOR), s_learning_failed, NULL);
    Py_DECREF(completed);
    Py_XDECREF(outcome);
    return result;
}

/* Counts a response at its server. */
static int
count_response(PyObject *exchange, PyObject *connection, PyObject *lease, PyObject *known)
{
    PyObject *destination = SLOT(lease, lease, L_DESTINATION);
    int has_ended = end_lease(lease);
    if (has_ended < 0 || (has_ended == 0 && call(lease, s_end, NULL) < 0))
        return -1;
    put_new(&SLOT(destination, destination, T_HEARD), SLOT(connection, connection, C_LAST_ACTIVITY));
    if (!is_zero(SLOT(destination, destination, T_ERRORS)) &&
        put_made(&SLOT(destination, destination, T_ERRORS), PyLong_FromLong(0)) < 0)
        return -1;
    double now = monotonic(), took = now - PyFloat_AsDouble(SLOT(exchange, exchange, X_STARTED));
    int bucket = 0;
    while (bucket < bucket_count && buckets[bucket] < took)
        bucket++;
    if ((SLOT(destination, destination, T_MEASURED_LATENCY) != Py_None ||
         SLOT(destination, destination, T_MEASURED_ERRORS) != Py_None) &&
        measure(destination, took, now, bucket) < 0)
        return -1;
    PyObject *row = SLOT(known, response, W_ROW);
    if (add(&PyList_GET_ITEM(row, bucket), 1) < 0)
        return -1;
    PyObject *latencies = SLOT(destination, destination, T_LATENCIES);
    double seconds = PyFloat_AsDouble(SLOT(latencies, latencies, N_SECONDS)) + took;
    if (put_float(&SLOT(latencies, latencies, N_SECONDS), seconds) < 0)
        return -1;
    PyObject *settled = SLOT(exchange, exchange, X_SETTLED);
    PyObject *in = SLOT(exchange, exchange, X_BYTES_IN), *out = SLOT(exchange, exchange, X_BYTES_OUT);
    long long more_in = PyLong_AsLongLong(in) - PyLong_AsLongLong(PyTuple_GET_ITEM(settled, 0));
    long long more_out = PyLong_AsLongLong(out) - PyLong_AsLongLong(PyTuple_GET_ITEM(settled, 1));
    if (PyErr_Occurred() || add(&SLOT(destination, destination, T_BYTES_IN), more_in) < 0 ||
        add(&SLOT(destination, destination, T_BYTES_OUT), more_out) < 0)
        return -1;
    if (put_made(&SLOT(exchange, exchange, X_SETTLED), PyTuple_Pack(2, in, out)) < 0)
        return -1;
    PyObject *dispatcher = SLOT(exchange, exchange, X_DISPATCHER);
    if (SLOT(dispatcher, dispatcher, D_COMPLETED) == Py_None)
        return 0;
    return tell_outcome(exchange, destination, known, took, more_in, more_out);
}

static inline int
stop_timer(PyObject *connection)
{
    return call(connection, s_set_timer, zero);
}

/* HTTPClientConnection._close_gracefully */
static int
close_gracefully(PyObject *connection)
{
    PyObject *client = SLOT(connection, connection, C_CLIENT);
    if (!has_stream(connection) || (SLOT(client, stream, M_TLS) != Py_None && SLOT(client, stream, M_PEER_ENDED) != Py_True))
        return call(connection, s_close_gracefully, NULL);
    if (stop_timer(connection) < 0)
        return -1;
    PyObject *closes = PyObject_CallMethodNoArgs(client, s_close);
    if (closes == NULL)
        return -1;
    int closes_now = PyObject_IsTrue(closes);
    Py_DECREF(closes);
    return closes_now ? (closes_now < 0 ? -1 : 0) : call(connection, s_close_gracefully, NULL); /* which watches it */
}

/* Exchange.finish, after a plain request of which everything has been counted. */
static int
finish(PyObject *exchange, PyObject *connection)
{
    PyObject *dispatcher = SLOT(exchange, exchange, X_DISPATCHER);
    if (SLOT(connection, connection, C_CLOSES_AFTER) != Py_True || !is_no_bytes(SLOT(connection, connection, C_PENDING)) ||
        SLOT(connection, connection, C_BODY) != Py_None || SLOT(dispatcher, dispatcher, D_ENTRY) != Py_None)
        return call(exchange, s_finish, NULL);
    put_new(&SLOT(exchange, exchange, X_MESSAGE), Py_None);
    return call(connection, s_transition, event_finished) < 0 ? -1 : close_gracefully(connection);
}

/* What a request and its response take, for the access log: a new tuple of the bytes to the server, to the client, and of
 * the body. before: those to the server and to the client before the request. */
static PyObject *
log_sizes(PyObject *exchange, PyObject *before, Py_ssize_t body)
{
    PyObject *sizes = PyTuple_New(3);
    if (sizes == NULL)
        return NULL;
    PyTuple_SET_ITEM(sizes, 0, PyNumber_Subtract(SLOT(exchange, exchange, X_BYTES_IN), PyTuple_GET_ITEM(before, 0)));
    PyTuple_SET_ITEM(sizes, 1, PyNumber_Subtract(SLOT(exchange, exchange, X_BYTES_OUT), PyTuple_GET_ITEM(before, 1)));
    PyTuple_SET_ITEM(sizes, 2, PyLong_FromSsize_t(body));
    if (PyTuple_GET_ITEM(sizes, 0) == NULL || PyTuple_GET_ITEM(sizes, 1) == NULL || PyTuple_GET_ITEM(sizes, 2) == NULL)
        Py_CLEAR(sizes);
    return sizes;
}

/* PlainPath.write_log. body: bytes. */
static int
write_any_log(PyObject *exchange, PyObject *known, Py_ssize_t body)
{
    PyObject *size = PyLong_FromSsize_t(body);
    PyObject *done = size ? PyObject_CallMethodObjArgs(plain_path(exchange), s_write_log, exchange, known, size, NULL) : NULL;
    Py_XDECREF(size);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* The client's address and its TLS, or None, as lines name them; a new reference. */
static PyObject *
client_of(PyObject *connection, PyObject *request)
{
    PyObject *stream = SLOT(request, request, R_CONNECTION), *address = SLOT(request, request, R_CLIENT);
    if (stream == NULL || address == NULL) {
        PyErr_SetString(PyExc_AttributeError, "a scheduler has deleted the client of a request, or its connection");
        return NULL;
    }
    if (stream == SLOT(connection, connection, C_CLIENT))
        return PyTuple_Pack(2, address, SLOT(stream, stream, M_TLS));
    PyObject *tls = stream == Py_None ? Py_NewRef(Py_None) : PyObject_GetAttr(stream, s_tls);
    PyObject *client = tls == NULL ? NULL : PyTuple_Pack(2, address, tls);
    Py_XDECREF(tls);
    return client;
}

/* PlainPath.write_log of a request without edits, which has no trace, to the writer of an access log alone. body: bytes. */
static int
write_log(PyObject *connection, PyObject *exchange, PyObject *known, Py_ssize_t body)
{
    PyObject *dispatcher = SLOT(exchange, exchange, X_DISPATCHER), *choice = SLOT(dispatcher, dispatcher, D_CHOICE);
    PyObject *logged = Py_NewRef(SLOT(exchange, exchange, X_PLAIN_LOG)), *plain = SLOT(exchange, exchange, X_PLAIN);
    PyObject *writer = PyTuple_GET_ITEM(logged, 0), *moved = NULL, *client = NULL, *done = NULL;
    put_new(&SLOT(exchange, exchange, X_PLAIN_LOG), Py_None);
    if (choice == Py_None || plain == Py_None) { /* a watcher of the lease's end has changed it */
        done = Py_NewRef(Py_None);
    } else {
        moved = log_sizes(exchange, PyTuple_GET_ITEM(logged, 2), body);
        client = moved == NULL ? NULL : client_of(connection, SLOT(dispatcher, dispatcher, D_REQUEST));
    }
    if (client != NULL) {
        PyObject *started = PyTuple_GET_ITEM(logged, 1), *status = SLOT(known, response, W_STATUS);
        PyObject *arguments[] = {writer, plain, client, started, status, choice, moved};
        Py_INCREF(plain);
        Py_INCREF(choice);
        done = PyObject_VectorcallMethod(s_write_plain, arguments, sizeof arguments / sizeof *arguments, NULL);
        Py_DECREF(choice);
        Py_DECREF(plain);
    }
    Py_XDECREF(client);
    Py_XDECREF(moved);
    Py_DECREF(logged);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* PlainPath._pass_whole. `known` is what the response is. */
static int
pass_whole(PyObject *server, PyObject *exchange, PyObject *connection, PyObject *known, PyObject *data)
{
    PyObject *dispatcher = SLOT(exchange, exchange, X_DISPATCHER), *choice = SLOT(dispatcher, dispatcher, D_CHOICE);
    int is_last = SLOT(connection, connection, C_IS_LAST) == Py_True;
    PyObject *added = is_usual_choice(choice) ? SLOT(choice, choice, O_ANSWER_LINES) : no_bytes;
    Py_ssize_t body = PyBytes_GET_SIZE(data) - PyBytes_GET_SIZE(SLOT(known, response, W_START));
    PyObject *out = SLOT(exchange, exchange, X_EDITS) == Py_None
                        ? onward(known, added, data, is_last)
                        : edited(exchange, SLOT(exchange, exchange, X_PLAIN), known, data);
    if (out == NULL)
        return -1;
    PyObject *write = Py_NewRef(SLOT(SLOT(connection, connection, C_CLIENT), stream, M_WRITE));
    int result = add(&SLOT(exchange, exchange, X_BYTES_OUT), PyBytes_GET_SIZE(out));
    if (result == 0)
        result = write_to(write, out);
    Py_DECREF(write);
    Py_DECREF(out);
    if (result < 0)
        return -1;
    if (!is_last || SLOT(connection, connection, C_CLOSES_AFTER) == Py_True)
        put_new(&SLOT(connection, connection, C_STATE), whole_state);
    put_new(&SLOT(exchange, exchange, X_SERVER), Py_None);
    if (SLOT(connection, connection, C_IS_FULL) == Py_True && call(server, s_resume, NULL) < 0)
        return -1;
    if (call(SLOT(SLOT(exchange, exchange, X_HTTP), http, F_CONNECTIONS), s_put, server) < 0)
        return -1;
    PyObject *lease = SLOT(dispatcher, dispatcher, D_LEASE);
    if (IS_A(lease, lease)) {
        Py_INCREF(lease); /* a watcher of its end may do anything */
        result = count_response(exchange, connection, lease, known);
        Py_DECREF(lease);
        if (result < 0)
            return -1;
    }
    if (SLOT(exchange, exchange, X_PLAIN_LOG) != Py_None) {
        PyObject *writer = PyTuple_GET_ITEM(SLOT(exchange, exchange, X_PLAIN_LOG), 0);
        int is_usual = SLOT(exchange, exchange, X_EDITS) == Py_None && IS_A(writer, log_writer);
        result = is_usual ? write_log(connection, exchange, known, body) : write_any_log(exchange, known, body);
        if (result < 0)
            return -1;
    }
    put_new(&SLOT(exchange, exchange, X_PLAIN), Py_None);
    return is_last ? finish(exchange, connection) : 0;
}

/* The plain response that `data` is, a new reference; None when it is another one. */
static PyObject *
known_response(PyObject *server, PyObject *exchange, PyObject *data)
{
    PyObject *known = SLOT(server, server, V_CACHED);
    if (IS_A(known, response)) {
        PyObject *start = SLOT(known, response, W_START), *total = SLOT(known, response, W_TOTAL);
        Py_ssize_t size = PyBytes_GET_SIZE(start);
        if (PyLong_AsSsize_t(total) == PyBytes_GET_SIZE(data) &&
            memcmp(PyBytes_AS_STRING(start), PyBytes_AS_STRING(data), (size_t)size) == 0)
            return Py_NewRef(known);
    }
    PyObject *found = known_chunked(server, SLOT(exchange, exchange, X_HTTP), data);
    if (found != NULL || PyErr_Occurred())
        return found;
    return PyObject_CallMethodObjArgs(plain_path(exchange), s_scanned, server, data, NULL);
}

/* ServerConnection.receive and Exchange.server_data. */
static PyObject *
server_receives(PyObject *callable, PyObject *const *args, size_t count, PyObject *names)
{
    Receiver *self = (Receiver *)callable;
    PyObject *data = data_of(args, count, names), *server = self->owner;
    if (data == NULL)
        return NULL;
    if (!IS_A(server, server) || !PyBytes_CheckExact(data))
        return unusual(self, data);
    PyObject *exchange = SLOT(server, server, V_EXCHANGE);
    if (!IS_A(exchange, exchange))
        return unusual(self, data);
    PyObject *connection = SLOT(exchange, exchange, X_OWNER), *plain = SLOT(exchange, exchange, X_PLAIN);
    if (!is_connection(connection) || !has_stream(connection) || !IS_A(plain, plain) ||
        SLOT(exchange, exchange, X_FORWARDER) != Py_None || SLOT(exchange, exchange, X_SERVER) != server ||
        SLOT(connection, connection, C_HAS_ENDED) != Py_False || !is_no_bytes(SLOT(connection, connection, C_PENDING)) ||
        !is_zero(SLOT(connection, connection, C_HELD)) || SLOT(plain, plain, P_MINOR) != Py_True ||
        (has_body(plain) && SLOT(exchange, exchange, X_PLAIN_LOG) != Py_None))
        return unusual(self, data);
    PyObject *known = known_response(server, exchange, data);
    if (known == NULL)
        return NULL;
    if (!IS_A(known, response)) {
        Py_DECREF(known);
        return unusual(self, data);
    }
    int result = put_made(&SLOT(connection, connection, C_LAST_ACTIVITY), PyObject_GetAttr(self->wheel, s_now));
    if (result == 0) {
        Py_INCREF(server);
        Py_INCREF(exchange);
        Py_INCREF(connection);
        result = pass_whole(server, exchange, connection, known, data);
        Py_DECREF(connection);
        Py_DECREF(exchange);
        Py_DECREF(server);
    }
    Py_DECREF(known);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

static int
receiver_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(((Receiver *)self)->owner);
    Py_VISIT(((Receiver *)self)->wheel);
    return 0;
}

static int
receiver_clear(PyObject *self)
{
    Py_CLEAR(((Receiver *)self)->owner);
    Py_CLEAR(((Receiver *)self)->wheel);
    return 0;
}

static void
receiver_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    receiver_clear(self);
    PyObject_GC_Del(self);
}

static PyTypeObject receiver_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "ktcpvs.http._fast_path.Receiver",
    .tp_basicsize = sizeof(Receiver),
    .tp_dealloc = receiver_dealloc,
    .tp_vectorcall_offset = offsetof(Receiver, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_traverse = receiver_traverse,
    .tp_clear = receiver_clear,
    .tp_doc = "Receives the data of a stream; see http/fast_path.py.",
};

static PyObject *
receiver_of(PyObject *owner, PyObject *wheel, vectorcallfunc receives)
{
    Receiver *self = PyObject_GC_New(Receiver, &receiver_type);
    if (self == NULL)
        return NULL;
    self->vectorcall = receives;
    self->owner = Py_NewRef(owner);
    self->wheel = Py_NewRef(wheel);
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static PyObject *
make_receiver(PyObject *args, vectorcallfunc receives, Layout *layout, const char *const *names)
{
    PyObject *owner, *wheel;
    if (!PyArg_ParseTuple(args, "OO", &owner, &wheel))
        return NULL;
    if (layout->type == NULL && learn(layout, names, Py_TYPE(owner)) < 0)
        return NULL;
    return receiver_of(owner, wheel, receives);
}

/* The beginning and the end of a client connection. */

static void
fill_exchange(PyObject *self, PyObject *http, PyObject *owner, PyObject *dispatcher)
{
    FILL(self, exchange, Py_None, X_MESSAGE, X_PLAIN, X_PLAIN_LOG, X_SERVER, X_SENDER, X_FORWARDER, X_EDITS);
    put_new(&SLOT(self, exchange, X_HTTP), http);
    put_new(&SLOT(self, exchange, X_OWNER), owner);
    put_new(&SLOT(self, exchange, X_DISPATCHER), dispatcher);
    put_new(&SLOT(self, exchange, X_STARTED), no_time);
    put_new(&SLOT(self, exchange, X_REPEATABLE), Py_False);
    put_new(&SLOT(self, exchange, X_BYTES_IN), zero);
    put_new(&SLOT(self, exchange, X_BYTES_OUT), zero);
    put_new(&SLOT(self, exchange, X_SETTLED), nothing_moved);
}

static PyObject *
exchange_init(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "Exchange() takes 3 arguments");
        return NULL;
    }
    fill_exchange(self, args[0], args[1], args[2]);
    return Py_NewRef(Py_None);
}

static PyObject *
connection_init(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "HTTPClientConnection() takes 3 arguments");
        return NULL;
    }
    PyObject *context = PyObject_GetAttr(args[0], s_context);
    if (context == NULL)
        return NULL;
    PyObject *all[] = {self, context, args[1], args[2], idle_state};
    PyObject *result = call_base(base_type, s_init, all, 5);
    Py_DECREF(context);
    if (result == NULL)
        return NULL;
    FILL(self, connection, Py_None, C_READER, C_PROGRESS, C_BODY);
    FILL(self, connection, Py_False, C_IS_SERVING_PENDING, C_IS_TURN_OVER, C_CLOSES_AFTER, C_HAS_ENDED, C_IS_FULL,
         C_IS_LAST, C_IS_RETIRING);
    FILL(self, connection, zero, C_HEAD_BEGAN, C_BODY_BYTES, C_HELD);
    put_new(&SLOT(self, connection, C_HTTP), args[0]);
    put_new(&SLOT(self, connection, C_PENDING), no_bytes);
    PyObject *exchange = exchange_layout.type->tp_alloc(exchange_layout.type, 0);
    if (exchange == NULL)
        Py_CLEAR(result);
    else {
        fill_exchange(exchange, args[0], self, SLOT(self, connection, C_DISPATCHER));
        put(&SLOT(self, connection, C_EXCHANGE), exchange);
    }
    return result;
}

static PyObject *
connection_opened(PyObject *self, PyObject *unused)
{
    PyObject *http = SLOT(self, connection, C_HTTP), *client = SLOT(self, connection, C_CLIENT);
    PyObject *dispatcher = SLOT(self, connection, C_DISPATCHER);
    (void)unused;
    if (!has_stream(self) || !IS_A(http, http) || !IS_A(SLOT(http, http, F_CONTEXT), service) ||
        !IS_A(dispatcher, dispatcher) || !IS_A(SLOT(dispatcher, dispatcher, D_REQUEST), request))
        return plainly(plain_opened, self, NULL);
    PyObject *wheel = PyObject_GetAttr(SLOT(self, connection, C_CONTEXT), s_wheel);
    PyObject *receiver = wheel == NULL ? NULL : receiver_of(self, wheel, client_receives);
    Py_XDECREF(wheel);
    if (put_made(&SLOT(client, stream, M_DATA_RECEIVED), receiver) < 0 ||
        put_made(&SLOT(client, stream, M_ENDED), PyObject_GetAttr(self, s_client_ended)) < 0 ||
        put_made(&SLOT(client, stream, M_LOST), PyObject_GetAttr(self, s_client_lost)) < 0 ||
        call(client, s_set_backpressure, self) < 0)
        return NULL;
    put_new(&SLOT(SLOT(dispatcher, dispatcher, D_REQUEST), request, R_CONNECTION), client);
    int is_known = SLOT(http, http, F_CHECKED) == SLOT(SLOT(http, http, F_CONTEXT), service, E_SETTINGS);
    PyObject *interval = is_known ? Py_NewRef(SLOT(http, http, F_INTERVAL)) : PyObject_GetAttr(http, s_check_interval);
    PyObject *check = interval == NULL ? NULL : PyObject_GetAttr(self, s_check_timeouts);
    PyObject *made = check == NULL ? NULL : PyObject_CallMethodObjArgs(self, s_set_timer, interval, check, NULL);
    Py_XDECREF(interval);
    Py_XDECREF(check);
    return made;
}

static PyObject *
connection_end_if_over(PyObject *self, PyObject *unused)
{
    PyObject *exchange = SLOT(self, connection, C_EXCHANGE), *client = SLOT(self, connection, C_CLIENT);
    PyObject *dispatcher = SLOT(self, connection, C_DISPATCHER);
    (void)unused;
    if (!has_stream(self) || !IS_A(exchange, exchange) || !IS_A(dispatcher, dispatcher) ||
        SLOT(exchange, exchange, X_SENDER) != Py_None || SLOT(exchange, exchange, X_FORWARDER) != Py_None ||
        SLOT(self, connection, C_RELAY) != Py_None)
        return plainly(plain_end_if_over, self, NULL);
    if (SLOT(client, stream, M_IS_OPEN) == Py_True || SLOT(self, connection, C_IS_OVER) == Py_True)
        return Py_NewRef(Py_None);
    PyObject *lease = SLOT(dispatcher, dispatcher, D_LEASE);
    int is_settled = SLOT(exchange, exchange, X_PLAIN) == Py_None && SLOT(dispatcher, dispatcher, D_ENTRY) == Py_None &&
                     (lease == Py_None || (IS_A(lease, lease) && SLOT(lease, lease, L_ENDED) == Py_True));
    if (stop_timer(self) < 0 || (!is_settled && call(exchange, s_settle, NULL) < 0) || call(self, s_end, NULL) < 0)
        return NULL;
    Py_CLEAR(SLOT(exchange, exchange, X_OWNER)); /* Exchange.detach */
    return Py_NewRef(Py_None);
}

static PyObject *
connection_client_lost(PyObject *self, PyObject *clean)
{
    PyObject *exchange = SLOT(self, connection, C_EXCHANGE), *state = SLOT(self, connection, C_STATE);
    if (!IS_A(exchange, exchange) || SLOT(exchange, exchange, X_SERVER) != Py_None ||
        SLOT(exchange, exchange, X_PLAIN) != Py_None || SLOT(exchange, exchange, X_SENDER) != Py_None ||
        !is_zero(SLOT(self, connection, C_HELD)))
        return plainly(plain_client_lost, self, clean);
    if (state != closed_state && call(self, s_transition, event_client_gone) < 0)
        return NULL;
    return connection_end_if_over(self, NULL);
}

static PyMethodDef connection_methods[] = {
    {"__init__", METHOD(connection_init), METH_FASTCALL, NULL},
    {"_opened", connection_opened, METH_NOARGS, NULL},
    {"_client_lost", connection_client_lost, METH_O, NULL},
    {"end_if_over", connection_end_if_over, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef exchange_methods[] = {
    {"__init__", METHOD(exchange_init), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

/* configure_connections(classes, values): see http/compiled.py. */
static PyObject *
configure_connections(PyObject *module, PyObject *args)
{
    static const Class all[] = {
        CLASS(connection), CLASS(exchange), CLASS(http), CLASS(service), {NULL, NULL, NULL},
    };
    static const Variable values[] = {
        {&closed_state, "closed"}, {&event_finished, "finished"}, {&event_client_gone, "client_gone"}, {NULL, NULL},
    };
    static const Variable plain[] = {
        {&plain_opened, "_opened"}, {&plain_client_lost, "_client_lost"}, {&plain_end_if_over, "end_if_over"},
        {NULL, NULL},
    };
    PyObject *classes, *given;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!", &PyDict_Type, &classes, &PyDict_Type, &given) || learn_all(classes, all) < 0 ||
        take_class(classes, "base", &base_type) < 0 ||
        take_class(classes, "stream_connection", &stream_connection_type) < 0 || take_values(given, values) < 0 ||
        take_methods(connection_layout.type, plain) < 0)
        return NULL;
    return Py_BuildValue("NN", methods_for(connection_layout.type, connection_methods),
                         methods_for(exchange_layout.type, exchange_methods));
}

static PyObject *
client_receiver(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *made = make_receiver(args, client_receives, &connection_layout, connection_names);
    if (made != NULL && exchange_layout.type == NULL) {
        PyObject *owner = ((Receiver *)made)->owner;
        PyObject *exchange = SLOT(owner, connection, C_EXCHANGE), *http = SLOT(owner, connection, C_HTTP);
        if (exchange == NULL || http == NULL || learn(&http_layout, http_names, Py_TYPE(http)) < 0 ||
            learn(&exchange_layout, exchange_names, Py_TYPE(exchange)) < 0)
            Py_CLEAR(made);
    }
    return made;
}

static PyObject *
server_receiver(PyObject *module, PyObject *args)
{
    (void)module;
    return make_receiver(args, server_receives, &server_layout, server_names);
}

/* configure(classes, states, buckets, closing, ok, by_chooser, decay, limits): see http/fast_path.py. */
static PyObject *
configure(PyObject *module, PyObject *args)
{
    PyObject *classes, *bounds;
    (void)module;
    int places, longest, request, response, chunks;
    if (!PyArg_ParseTuple(args, "O!(OOO)O!SUOd(iiiii)", &PyDict_Type, &classes, &idle_state, &sent_state, &whole_state,
                          &PyTuple_Type, &bounds, &closing, &reason_ok, &by_chooser, &decay, &places, &longest, &request, &response,
                          &chunks))
        return NULL;
    if (places != PLACES || longest != MAX_CACHED_REQUEST || request != MAX_WHOLE_REQUEST || response != MAX_WHOLE_RESPONSE ||
        chunks != MAX_CHUNKS) {
        PyErr_SetString(PyExc_ValueError, "the limits of http are not those that were compiled");
        return NULL;
    }
    Py_INCREF(idle_state);
    Py_INCREF(sent_state);
    Py_INCREF(whole_state);
    Py_INCREF(closing);
    Py_INCREF(reason_ok);
    Py_INCREF(by_chooser);
    bucket_count = (int)PyTuple_GET_SIZE(bounds);
    if (bucket_count > MAX_BUCKETS) {
        PyErr_SetString(PyExc_ValueError, "too many buckets");
        return NULL;
    }
    for (int i = 0; i < bucket_count; i++)
        buckets[i] = PyFloat_AsDouble(PyTuple_GET_ITEM(bounds, i));
    static const Class all[] = {
        CLASS(dispatcher), CLASS(request), CLASS(selector), CLASS(cache), CLASS(choice), CLASS(lease),
        CLASS(destination), CLASS(latencies), CLASS(latency), CLASS(error_rate), CLASS(outcome), CLASS(response),
        CLASS(stream), CLASS(access_log), CLASS(log_writer), CLASS(plain), CLASS(service_edits), CLASS(modified_choice),
        CLASS(modifiers), CLASS(whole_requests), CLASS(request_head), CLASS(whole_responses), {NULL, NULL, NULL},
    };
    if (learn_all(classes, all) < 0 || take_class(classes, "shared_destination", &shared_destination_type) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* without_cookie(plain, lines): for tests, which compare it with PlainPath.with_lines; None for NULL. */
static PyObject *
test_without_cookie(PyObject *module, PyObject *args)
{
    PyObject *plain, *lines;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!S", plain_layout.type, &plain, &lines))
        return NULL;
    PyObject *made = without_cookie(plain, lines);
    return made != NULL || PyErr_Occurred() ? made : Py_NewRef(Py_None);
}

static PyObject *
test_chunks_end(PyObject *module, PyObject *args)
{
    const char *text;
    Py_ssize_t size, begin;
    (void)module;
    if (!PyArg_ParseTuple(args, "y#n", &text, &size, &begin))
        return NULL;
    return PyLong_FromSsize_t(chunks_end(text, size, begin));
}

static PyMethodDef functions[] = {
    {"without_cookie", test_without_cookie, METH_VARARGS, "without_cookie(plain, lines)"},
    {"chunks_end", test_chunks_end, METH_VARARGS, "chunks_end(data, begin): see protocols/http1/body.py"},
    {"configure", configure, METH_VARARGS, "configure(classes, states, buckets, closing, ok, by_chooser, decay, limits)"},
    {"configure_connections", configure_connections, METH_VARARGS,
     "configure_connections(classes, values): return their compiled methods by name"},
    {"client_receiver", client_receiver, METH_VARARGS, "client_receiver(connection, wheel)"},
    {"server_receiver", server_receiver, METH_VARARGS, "server_receiver(server, wheel)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_fast_path", "The fast path of plain requests, compiled.", -1, functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__fast_path(void)
{
    static const Variable names[] = {
        {&s_now, "now"}, {&s_receive, "receive"}, {&s_begin, "begin"}, {&s_start, "start"}, {&s_choose, "choose"},
        {&s_choice_failed, "choice_failed"}, {&s_choice_unusual, "choice_unusual"},
        {&s_with_lines, "with_lines"}, {&s_pause, "pause"}, {&s_resume, "resume"},
        {&s_scanned, "scanned"}, {&s_put, "put"}, {&s_end, "end"},
        {&s_write_log, "write_log"}, {&s_write_plain, "write_plain"}, {&s_tls, "tls"},
        {&s_finish, "finish"}, {&s_read_for, "_read_for"}, {&s_read_plain, "read_plain"},
        {&s_request_head, "request_head"}, {&s_response_head, "response_head"},
        {&s_check_interval, "check_interval"}, {&s_check_timeouts, "_check_timeouts"},
        {&s_has_input, "has_input"}, {&s_read_with_body, "read_with_body"}, {&s_row, "row"}, {&s_client_ended, "_client_ended"},
        {&s_client_lost, "_client_lost"}, {&s_close, "close"}, {&s_close_gracefully, "_close_gracefully"},
        {&s_context, "context"}, {&s_init, "__init__"}, {&s_learning_failed, "learning_failed"}, {&s_set_backpressure, "set_backpressure"},
        {&s_set_timer, "set_timer"}, {&s_settle, "settle"}, {&s_transition, "transition"}, {&s_wheel, "wheel"}, {NULL, NULL},
    };
    if (make_names(names) < 0)
        return NULL;
    no_bytes = PyBytes_FromString("");
    zero = PyLong_FromLong(0);
    no_time = PyFloat_FromDouble(0);
    nothing_moved = Py_BuildValue("(ii)", 0, 0);
    if (no_bytes == NULL || zero == NULL || no_time == NULL || nothing_moved == NULL || PyType_Ready(&receiver_type) < 0)
        return NULL;
    return PyModule_Create(&definition);
}
