/* Bare sockets, compiled: the methods of BareTransport, of Stream and of SocketPoller that nearly every connection calls,
 * and accept and connect without objects of Python's socket module.
 *
 * The objects are Python's own, with __slots__. A method here does what the method of the same name does in
 * streams/bare_transport.py, streams/stream.py or streams/poller.py, where the reasons stand. Whatever is unusual
 * (urgent data, unsent bytes, errors of an owner) goes to the other methods there.
 */

#define _GNU_SOURCE
#include "../_configuration.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MAX_POLLED = 64, MAX_PARTS = 8 };

enum { T_ABORTED, T_CLOSING, T_EVENTS, T_FAMILY, T_FD, T_FIN_CAME, T_IS_FULL, T_HALF_CLOSED, T_HAS_INPUT, T_HAS_WRITTEN,
       T_IS_DELAYING, T_IS_READING, T_IS_SCHEDULED, T_PAUSED, T_PEER, T_PEER_ENDED, T_PUTS_URGENT, T_READ_SIZE,
       T_READS_ON, T_READS_SMALL, T_RECV, T_SEND, T_SENDS_AT_ONCE, T_SENDS_FIN, T_SOCK, T_UNSENT, T_UNSENT_SIZE,
       T_WAS_BULK, T_WRITER, T_POLLER, T_STREAM };
FIELDS(transport, "_aborted", "_closing", "_events", "_family", "_fd", "_fin_came", "_is_full", "_half_closed", "_has_input",
       "_has_written", "_is_delaying", "_is_reading", "_is_scheduled", "_paused", "_peer", "_peer_ended",
       "_puts_urgent_in_place", "_read_size", "_reads_on", "_reads_small", "_recv", "_send", "_sends_at_once", "_sends_fin",
       "_sock", "_unsent", "_unsent_size", "_was_bulk", "_writer", "poller", "stream");

enum { S_BULK_DETECTED, S_CALLED, S_CONNECTED, S_DATA_RECEIVED, S_ENDED, S_IS_OPEN, S_LOST, S_MADE, S_PEER_ENDED,
       S_RESTING, S_TIMER, S_TLS, S_TRANSPORT, S_WRITE };
FIELDS(stream, "bulk_detected", "called", "connected", "dataReceived", "ended", "is_open", "lost", "made", "peer_ended",
       "resting", "timer", "tls", "transport", "write");

enum { P_ALARM_AT, P_CALLBACKS, P_DEADLINES, P_DEFERRED, P_DESCRIPTOR, P_IS_POLLING, P_TIME, P_UNREGISTERED };
FIELDS(poller, "_alarm_at", "_callbacks", "_deadlines", "_deferred", "_descriptor", "_is_polling", "_time",
       "_unregistered");

enum { A_ADDRESS, A_CONNECTED, A_FAILED, A_FAMILY, A_FD, A_IS_OVER, A_POLLER, A_RETRY, A_STREAM };
FIELDS(attempt, "_address", "_connected", "_failed", "_family", "_fd", "_is_over", "_poller", "_retry", "_stream");

enum { I_HOST, I_PORT };
FIELDS(inet, "host", "port");

/* What configure() gets: the classes' own methods for unusual cases, the sizes of reads, the module of the poller. */
static PyObject *nothing, *plain_ready, *plain_defer, *plain_forget, *plain_accept, *plain_start,
    *plain_attempt_ready, *plain_expire_after, *poller_module;
static Py_ssize_t read_size, bulk_read_size, bulk_size, max_undivided;
static PyObject *read_size_object, *bulk_read_size_object, *read_events_object, *zero, *one, *minus_one, *no_bytes;
static PyObject *all_events_object, *family_four, *family_six, *family_unix;
static unsigned int read_events, all_events;

static PyObject *s_abort, *s_attempt_ready, *s_bulk_detected, *s_call_deferred, *s_callback_failed, *s_cancel,
    *s_close, *s_connection_made, *s_expire_after, *s_start, *s_data_received, *s_defer, *s_deferred_failed, *s_failed, *s_finish, *s_forget, *s_half_close,
    *s_has_forked, *s_hold_rest, *s_join, *s_note, *s_over, *s_pause, *s_pause_writing, *s_read_connection_lost, *s_read_soon,
    *s_ready, *s_resting, *s_resume, *s_send_fin, *s_set_backpressure, *s_stream_failed, *s_use_transport, *s_watch,
    *s_write, *s_write_failed, *s_write_otherwise;

static char buffer[16 << 10]; /* of small reads; nothing stays in it */

enum { READY_EVENTS = EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLERR | EPOLLHUP,
       RARE_EVENTS = EPOLLRDHUP | EPOLLPRI | EPOLLERR | EPOLLHUP };

#define T(field) SLOT(self, transport, field)
#define S(field) SLOT(self, stream, field)
#define A(field) SLOT(self, attempt, field)

static inline int
descriptor_of(PyObject *self)
{
    return (int)PyLong_AsLong(T(T_FD));
}

static inline int
is_unix(PyObject *self)
{
    return PyLong_AsLong(T(T_FAMILY)) == AF_UNIX;
}

/* The poller. */

static int
forget(PyObject *self, PyObject *descriptor)
{
    if (!IS_A(self, poller) || PyDict_GetItem(poller_module, s_has_forked) != Py_False)
        return call(self, s_forget, descriptor);
    PyObject *callbacks = SLOT(self, poller, P_CALLBACKS);
    int has = PyDict_Contains(callbacks, descriptor);
    if (has <= 0)
        return has;
    if (PyDict_DelItem(callbacks, descriptor) < 0)
        return -1;
    return PySet_Add(SLOT(self, poller, P_UNREGISTERED), descriptor);
}

static int
defer(PyObject *self, PyObject *what)
{
    PyObject *deferred = SLOT(self, poller, P_DEFERRED);
    if (!IS(self, poller, P_IS_POLLING) && PyList_GET_SIZE(deferred) == 0) {
        PyObject *result = plainly(plain_defer, self, what);
        Py_XDECREF(result);
        return result == NULL ? -1 : 0;
    }
    return PyList_Append(deferred, what);
}

static int
defer_method(PyObject *poller, PyObject *object, PyObject *name)
{
    PyObject *method = PyObject_GetAttr(object, name);
    if (method == NULL)
        return -1;
    int result = IS_A(poller, poller) ? defer(poller, method) : call(poller, s_defer, method);
    Py_DECREF(method);
    return result;
}

static PyObject *
poller_defer(PyObject *self, PyObject *what)
{
    return done(defer(self, what));
}

static PyObject *
poller_forget(PyObject *self, PyObject *descriptor)
{
    if (!IS_A(self, poller) || PyDict_GetItem(poller_module, s_has_forked) != Py_False)
        return plainly(plain_forget, self, descriptor);
    return done(forget(self, descriptor));
}

static PyObject *
poller_register(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    int epoll = (int)PyLong_AsLong(SLOT(self, poller, P_DESCRIPTOR));
    if (count == 3 && epoll >= 0) {
        struct epoll_event event = {.events = (uint32_t)PyLong_AsUnsignedLong(args[1]),
                                    .data = {.fd = (int)PyLong_AsLong(args[0])}};
        if (PyErr_Occurred())
            return NULL;
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, event.data.fd, &event) < 0)
            return PyErr_SetFromErrno(PyExc_OSError);
        return done(PyDict_SetItem(SLOT(self, poller, P_CALLBACKS), args[0], args[2]));
    }
    PyErr_SetString(count == 3 ? PyExc_ValueError : PyExc_TypeError,
                    count == 3 ? "I/O operation on closed epoll object" : "register() takes 3 arguments");
    return NULL;
}

static PyObject *
poller_expire_after(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "expire_after() takes 2 arguments");
        return NULL;
    }
    PyObject *now = PyObject_CallNoArgs(SLOT(self, poller, P_TIME));
    PyObject *due = now == NULL ? NULL : PyNumber_Add(now, args[0]);
    Py_XDECREF(now);
    if (due == NULL)
        return NULL;
    int is_first = PyObject_RichCompareBool(due, SLOT(self, poller, P_ALARM_AT), Py_LT);
    int result = is_first == 0 ? PyDict_SetItem(SLOT(self, poller, P_DEADLINES), args[1], due) : is_first;
    Py_DECREF(due);
    if (is_first > 0)
        return PyObject_CallFunctionObjArgs(plain_expire_after, self, args[0], args[1], NULL);
    return done(result);
}

static PyObject *
poller_cancel_expiry(PyObject *self, PyObject *attempt)
{
    PyObject *deadlines = SLOT(self, poller, P_DEADLINES);
    int has = PyDict_Contains(deadlines, attempt);
    return done(has > 0 ? PyDict_DelItem(deadlines, attempt) : has);
}

static PyObject *
poller_call_deferred(PyObject *self, PyObject *unused)
{
    (void)unused;
    PyObject *empty = PyList_New(0);
    if (empty == NULL)
        return NULL;
    PyObject *deferred = SLOT(self, poller, P_DEFERRED);
    SLOT(self, poller, P_DEFERRED) = empty;
    int result = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(deferred) && result == 0; i++) {
        PyObject *made = PyObject_CallNoArgs(PyList_GET_ITEM(deferred, i));
        if (made == NULL)
            result = handle(self, s_deferred_failed, NULL);
        Py_XDECREF(made);
    }
    Py_DECREF(deferred);
    return done(result);
}

static int
report(PyObject *self, struct epoll_event *event)
{
    PyObject *unregistered = SLOT(self, poller, P_UNREGISTERED), *callbacks = SLOT(self, poller, P_CALLBACKS);
    PyObject *descriptor = PyLong_FromLong(event->data.fd);
    if (descriptor == NULL)
        return -1;
    int result = PySet_GET_SIZE(unregistered) ? PySet_Contains(unregistered, descriptor) : 0;
    if (result == 0) {
        PyObject *callback = PyDict_GetItemWithError(callbacks, descriptor);
        PyObject *events = PyLong_FromUnsignedLong(event->events), *made = NULL;
        if (callback == NULL) {
            if (!PyErr_Occurred())
                PyErr_SetObject(PyExc_KeyError, descriptor);
        }
        else if (events != NULL) {
            Py_INCREF(callback);
            made = PyObject_CallOneArg(callback, events);
            Py_DECREF(callback);
        }
        Py_XDECREF(events);
        result = made == NULL ? handle(self, s_callback_failed, descriptor) : 0;
        Py_XDECREF(made);
    }
    Py_DECREF(descriptor);
    return result < 0 ? -1 : 0;
}

static PyObject *
poller_do_read(PyObject *self, PyObject *unused)
{
    struct epoll_event events[MAX_POLLED];
    (void)unused;
    if (PySet_Clear(SLOT(self, poller, P_UNREGISTERED)) < 0)
        return NULL;
    int count = epoll_wait((int)PyLong_AsLong(SLOT(self, poller, P_DESCRIPTOR)), events, MAX_POLLED, 0);
    if (count < 0) {
        if (errno != EINTR)
            return PyErr_SetFromErrno(PyExc_OSError);
        count = 0;
    }
    SET(self, poller, P_IS_POLLING, 1);
    int result = 0;
    for (int i = 0; i < count && result == 0; i++)
        result = report(self, &events[i]);
    SET(self, poller, P_IS_POLLING, 0);
    if (result == 0 && PyList_GET_SIZE(SLOT(self, poller, P_DEFERRED)) > 0)
        return PyObject_CallMethodNoArgs(self, s_call_deferred);
    return done(result);
}

/* The stream. */

static int
stream_over(PyObject *self, PyObject *clean)
{
    SET(self, stream, S_IS_OPEN, 0);
    if (S(S_TIMER) != Py_None && call(S(S_TIMER), s_cancel, NULL) < 0)
        return -1;
    PyObject *lost = S(S_LOST);
    S(S_LOST) = Py_NewRef(nothing);
    put_new(&S(S_ENDED), nothing);
    put_new(&S(S_DATA_RECEIVED), nothing);
    put_new(&S(S_WRITE), nothing);
    PyObject *result = PyObject_CallOneArg(lost, clean);
    Py_DECREF(lost);
    if (result == NULL)
        return -1;
    Py_DECREF(result);
    put_new(&S(S_TRANSPORT), Py_None);
    put_new(&S(S_MADE), nothing);
    put_new(&S(S_BULK_DETECTED), nothing);
    return 0;
}

static int
stream_ended(PyObject *self)
{
    if (IS(self, stream, S_PEER_ENDED))
        return 0;
    SET(self, stream, S_PEER_ENDED, 1);
    PyObject *ended = Py_NewRef(S(S_ENDED));
    PyObject *result = PyObject_CallNoArgs(ended);
    Py_DECREF(ended);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Calls one of the stream's callbacks with received data. */
static int
stream_received(PyObject *self, PyObject *data)
{
    PyObject *receive = IS_A(self, stream) ? Py_NewRef(S(S_DATA_RECEIVED)) : PyObject_GetAttr(self, s_data_received);
    if (receive == NULL)
        return -1;
    PyObject *result = PyObject_CallOneArg(receive, data);
    Py_DECREF(receive);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* The transport. */

static void
close_descriptor(PyObject *self, int *result)
{
    int descriptor = descriptor_of(self);
    put_new(&T(T_FD), minus_one);
    if (T(T_SOCK) != Py_None) {
        if (*result == 0)
            *result = call(T(T_SOCK), s_close, NULL);
    }
    else if (descriptor >= 0)
        close(descriptor);
}

static int
over(PyObject *self, int is_clean)
{
    PyObject *stream = T(T_STREAM);
    if (stream == Py_None)
        return 0;
    T(T_STREAM) = Py_NewRef(Py_None);
    SET(self, transport, T_IS_READING, 0);
    SET(self, transport, T_HAS_INPUT, 0);
    put_new(&T(T_UNSENT), Py_None);
    put_new(&T(T_UNSENT_SIZE), zero);
    int result = T(T_EVENTS) != zero ? forget(T(T_POLLER), T(T_FD)) : 0;
    close_descriptor(self, &result);
    put_new(&T(T_WRITER), Py_None);
    PyObject *clean = is_clean ? Py_True : Py_False;
    if (result == 0)
        result = IS_A(stream, stream) ? stream_over(stream, clean) : call(stream, s_over, clean);
    Py_DECREF(stream);
    return result;
}

static int
input_ended(PyObject *self)
{
    SET(self, transport, T_PEER_ENDED, 1);
    SET(self, transport, T_IS_READING, 0);
    SET(self, transport, T_HAS_INPUT, 0);
    PyObject *stream = Py_NewRef(T(T_STREAM));
    int result = IS_A(stream, stream) ? stream_ended(stream) : call(stream, s_read_connection_lost, NULL);
    Py_DECREF(stream);
    return result;
}

/* Reads at most `size` bytes. NULL without an exception: errno tells. */
static PyObject *
take(int descriptor, Py_ssize_t size)
{
    PyObject *data = NULL;
    char *place = buffer;
    if (size > (Py_ssize_t)sizeof buffer) { /* too much to copy it again */
        if ((data = PyBytes_FromStringAndSize(NULL, size)) == NULL)
            return NULL;
        place = PyBytes_AS_STRING(data);
    }
    ssize_t got;
    do
        got = recv(descriptor, place, (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (got < 0 && errno == EINTR);
    if (got < 0) {
        int error = errno;
        Py_XDECREF(data);
        errno = error;
        return NULL;
    }
    if (data == NULL)
        return PyBytes_FromStringAndSize(buffer, got);
    if (got < size)
        (void)_PyBytes_Resize(&data, got);
    return data;
}

/* BareTransport._read and _received. */
static int
receive(PyObject *self)
{
    for (;;) {
        Py_ssize_t size = PyLong_AsSsize_t(T(T_READ_SIZE));
        if (size <= 0)
            return -1; /* with an exception: it is no int */
        PyObject *data = take(descriptor_of(self), size);
        if (data == NULL) {
            if (PyErr_Occurred())
                return -1;
            if (errno != EAGAIN && errno != EWOULDBLOCK)
                return over(self, 0);
            SET(self, transport, T_HAS_INPUT, 0);
            SET(self, transport, T_READS_ON, 0);
            return 0;
        }
        Py_ssize_t length = PyBytes_GET_SIZE(data);
        if (length == 0) {
            Py_DECREF(data);
            return input_ended(self);
        }
        SET(self, transport, T_HAS_INPUT, IS(self, transport, T_READS_ON) || length == size);
        if (!IS(self, transport, T_READS_SMALL))
            put_new(&T(T_READ_SIZE), length < read_size ? read_size_object : bulk_read_size_object);
        PyObject *stream = Py_NewRef(T(T_STREAM));
        int result = 0;
        if (length >= bulk_size && !IS(self, transport, T_WAS_BULK)) {
            SET(self, transport, T_WAS_BULK, 1);
            result = call(stream, s_bulk_detected, NULL);
        }
        if (result == 0)
            result = stream_received(stream, data);
        Py_DECREF(stream);
        Py_DECREF(data);
        if (result < 0)
            return -1;
        if (!IS(self, transport, T_HAS_INPUT) || !IS(self, transport, T_IS_READING))
            return 0;
        if (length < size) {
            if (IS(self, transport, T_FIN_CAME) && !is_unix(self))
                return input_ended(self);
        }
        else if (size != read_size)
            return call(self, s_read_soon, NULL);
    }
}

static PyObject *
transport_read(PyObject *self, PyObject *unused)
{
    (void)unused;
    return done(receive(self));
}

static PyObject *
transport_ready(PyObject *self, PyObject *argument)
{
    if (T(T_UNSENT) != Py_None)
        return plainly(plain_ready, self, argument);
    unsigned long events = PyLong_AsUnsignedLong(argument);
    if (events == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    if (!(events & READY_EVENTS))
        return Py_NewRef(Py_None);
    int result = 0;
    if (events & RARE_EVENTS) {
        if (events & EPOLLPRI)
            result = call(self, s_note, argument);
        else {
            SET(self, transport, T_FIN_CAME, (events & (EPOLLRDHUP | EPOLLERR)) == EPOLLRDHUP);
            SET(self, transport, T_READS_ON, 1);
        }
    }
    if (result == 0) {
        if (IS(self, transport, T_IS_READING))
            result = receive(self);
        else
            SET(self, transport, T_HAS_INPUT, 1);
    }
    return done(result < 0 ? handle(self, s_failed, NULL) : 0);
}

static PyObject *
transport_write(PyObject *self, PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    PyObject *otherwise = NULL;
    ssize_t sent = 0;
    if (!IS(self, transport, T_SENDS_AT_ONCE)) {
        if (IS(self, transport, T_HALF_CLOSED) || IS(self, transport, T_CLOSING) || IS(self, transport, T_ABORTED)) {
            PyBuffer_Release(&view);
            return Py_NewRef(Py_None);
        }
        if (T(T_UNSENT) != Py_None || !IS(self, transport, T_IS_DELAYING) || IS(self, transport, T_HAS_WRITTEN) ||
            view.len > max_undivided)
            otherwise = s_write_otherwise;
        else
            SET(self, transport, T_HAS_WRITTEN, 1);
    }
    if (otherwise == NULL) {
        do
            sent = send(descriptor_of(self), view.buf, (size_t)view.len, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (sent < 0 && errno == EINTR);
        if (sent < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK)
                sent = 0;
            else
                otherwise = s_write_failed;
        }
    }
    int is_whole = sent == view.len;
    PyBuffer_Release(&view);
    if (otherwise == s_write_otherwise)
        return PyObject_CallMethodOneArg(self, otherwise, data);
    if (otherwise == s_write_failed)
        return PyObject_CallMethodNoArgs(self, otherwise);
    if (is_whole)
        return Py_NewRef(Py_None);
    PyObject *size = PyLong_FromSsize_t(sent);
    PyObject *result = size == NULL ? NULL : PyObject_CallMethodObjArgs(self, s_hold_rest, data, size, NULL);
    Py_XDECREF(size);
    return result;
}

/* BareTransport.writev. pieces: a list or a tuple; what else it may be, and what is long, is joined first. */
static PyObject *
transport_writev(PyObject *self, PyObject *pieces)
{
    struct iovec parts[MAX_PARTS];
    Py_ssize_t count = PyList_Check(pieces) ? PyList_GET_SIZE(pieces) : PyTuple_Check(pieces) ? PyTuple_GET_SIZE(pieces) : -1;
    Py_ssize_t size = 0, at = 0;
    if (IS(self, transport, T_SENDS_AT_ONCE) && count <= MAX_PARTS) {
        for (; at < count; at++) {
            PyObject *piece = PySequence_Fast_GET_ITEM(pieces, at);
            if (!PyBytes_CheckExact(piece))
                break;
            parts[at].iov_base = PyBytes_AS_STRING(piece);
            parts[at].iov_len = (size_t)PyBytes_GET_SIZE(piece);
            size += PyBytes_GET_SIZE(piece);
        }
    }
    ssize_t sent = 0;
    int is_sent = at == count;
    if (is_sent) {
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
        do
            sent = sendmsg(descriptor_of(self), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (sent < 0 && errno == EINTR);
        if (sent == size)
            return Py_NewRef(Py_None);
        if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
            return PyObject_CallMethodNoArgs(self, s_write_failed);
    }
    PyObject *joined = PyObject_CallMethodOneArg(no_bytes, s_join, pieces), *result = NULL;
    if (joined != NULL && !is_sent)
        result = transport_write(self, joined);
    else if (joined != NULL) {
        PyObject *done_size = PyLong_FromSsize_t(sent < 0 ? 0 : sent);
        if (done_size != NULL)
            result = PyObject_CallMethodObjArgs(self, s_hold_rest, joined, done_size, NULL);
        Py_XDECREF(done_size);
    }
    Py_XDECREF(joined);
    return result;
}

static PyObject *
transport_set_backpressure(PyObject *self, PyObject *writer)
{
    put_new(&T(T_WRITER), writer);
    return done(IS(self, transport, T_IS_FULL) ? call(writer, s_pause_writing, NULL) : 0);
}

static PyObject *
transport_clear_backpressure(PyObject *self, PyObject *unused)
{
    (void)unused;
    put_new(&T(T_WRITER), Py_None);
    return Py_NewRef(Py_None);
}

static PyObject *
transport_pause(PyObject *self, PyObject *unused)
{
    (void)unused;
    SET(self, transport, T_PAUSED, 1);
    SET(self, transport, T_IS_READING, 0);
    return Py_NewRef(Py_None);
}

/* BareTransport._watch(READ_EVENTS) of a socket that is not watched yet. */
static int
watch(PyObject *self)
{
    PyObject *poller = T(T_POLLER);
    int descriptor = descriptor_of(self);
    if (IS_A(poller, poller)) {
        struct epoll_event event = {.events = read_events, .data = {.fd = descriptor}};
        int epoll = (int)PyLong_AsLong(SLOT(poller, poller, P_DESCRIPTOR));
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) == 0) {
            PyObject *ready = PyObject_GetAttr(self, s_ready);
            if (ready == NULL)
                return -1;
            int result = PyDict_SetItem(SLOT(poller, poller, P_CALLBACKS), T(T_FD), ready);
            Py_DECREF(ready);
            put_new(&T(T_EVENTS), read_events_object);
            return result;
        }
    }
    return call(self, s_watch, read_events_object); /* fails in the same way, and deals with that */
}

static PyObject *
transport_resume(PyObject *self, PyObject *unused)
{
    (void)unused;
    SET(self, transport, T_PAUSED, 0);
    if (IS(self, transport, T_PEER_ENDED) || IS(self, transport, T_CLOSING) || IS(self, transport, T_ABORTED))
        return Py_NewRef(Py_None);
    SET(self, transport, T_IS_READING, 1);
    if (T(T_EVENTS) == zero)
        return done(watch(self));
    return done(IS(self, transport, T_HAS_INPUT) ? call(self, s_read_soon, NULL) : 0);
}

static void
shut_down(PyObject *self, int how)
{
    SET(self, transport, T_SENDS_FIN, 0);
    (void)shutdown(descriptor_of(self), how); /* the peer may have closed it already: reading will tell */
}

static PyObject *
transport_half_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    put_new(&T(T_WRITER), Py_None);
    if (IS(self, transport, T_HALF_CLOSED) || IS(self, transport, T_CLOSING) || IS(self, transport, T_ABORTED))
        return Py_NewRef(Py_None);
    SET(self, transport, T_HALF_CLOSED, 1);
    SET(self, transport, T_SENDS_AT_ONCE, 0);
    if (T(T_UNSENT) != Py_None)
        return Py_NewRef(Py_None);
    if (IS(self, transport, T_PEER_ENDED))
        return done(defer_method(T(T_POLLER), self, s_send_fin));
    shut_down(self, SHUT_WR);
    return Py_NewRef(Py_None);
}

static PyObject *
transport_send_fin(PyObject *self, PyObject *unused)
{
    (void)unused;
    if (IS(self, transport, T_SENDS_FIN) && !IS(self, transport, T_CLOSING) && !IS(self, transport, T_ABORTED))
        shut_down(self, SHUT_WR);
    return Py_NewRef(Py_None);
}

static PyObject *
transport_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    if (IS(self, transport, T_CLOSING) || IS(self, transport, T_ABORTED))
        return Py_NewRef(T(T_UNSENT) == Py_None ? Py_True : Py_False);
    put_new(&T(T_WRITER), Py_None);
    SET(self, transport, T_CLOSING, 1);
    SET(self, transport, T_IS_READING, 0);
    SET(self, transport, T_SENDS_AT_ONCE, 0);
    if (T(T_UNSENT) != Py_None)
        return Py_NewRef(Py_False);
    return defer_method(T(T_POLLER), self, s_finish) < 0 ? NULL : Py_NewRef(Py_True);
}

static PyObject *
transport_abort(PyObject *self, PyObject *unused)
{
    (void)unused;
    if (IS(self, transport, T_ABORTED) || T(T_STREAM) == Py_None)
        return Py_NewRef(Py_None);
    SET(self, transport, T_ABORTED, 1);
    SET(self, transport, T_IS_READING, 0);
    SET(self, transport, T_SENDS_AT_ONCE, 0);
    return done(defer_method(T(T_POLLER), self, s_finish));
}

static PyObject *
transport_finish(PyObject *self, PyObject *unused)
{
    (void)unused;
    if (T(T_STREAM) == Py_None)
        return Py_NewRef(Py_None);
    int is_aborted = IS(self, transport, T_ABORTED);
    if (is_aborted) {
        if (!is_unix(self)) {
            struct linger linger = {.l_onoff = 1, .l_linger = 0};
            (void)setsockopt(descriptor_of(self), SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
        }
    }
    else if (IS(self, transport, T_SENDS_FIN) && !IS(self, transport, T_PEER_ENDED))
        shut_down(self, SHUT_RDWR);
    return done(over(self, !is_aborted));
}

/* Stream.use_transport */
static int
use_transport(PyObject *self, PyObject *transport)
{
    put_new(&S(S_CONNECTED), one);
    put_new(&S(S_TRANSPORT), transport);
    if (put_made(&S(S_WRITE), PyObject_GetAttr(transport, s_write)) < 0)
        return -1;
    if (!IS_A(self, stream))
        return call(self, s_connection_made, NULL);
    SET(self, stream, S_IS_OPEN, 1);
    PyObject *made = S(S_MADE);
    S(S_MADE) = Py_NewRef(nothing);
    PyObject *result = PyObject_CallNoArgs(made);
    Py_DECREF(made);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static PyObject *
transport_begin(PyObject *self, PyObject *stream)
{
    put_new(&T(T_STREAM), stream);
    if ((IS_A(stream, stream) ? use_transport(stream, self) : call(stream, s_use_transport, self)) < 0) {
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        PyObject *aborted = transport_abort(self, NULL);
        if (aborted == NULL)
            PyErr_Clear();
        Py_XDECREF(aborted);
        PyErr_Restore(type, value, traceback);
        return NULL;
    }
    if (!IS(self, transport, T_IS_READING) || T(T_EVENTS) != zero)
        return Py_NewRef(Py_None);
    if (receive(self) < 0 && handle(self, s_failed, NULL) < 0)
        return NULL;
    if (!IS(self, transport, T_IS_READING) || T(T_EVENTS) != zero)
        return Py_NewRef(Py_None);
    PyObject *is_resting = PyObject_GetAttr(stream, s_resting);
    if (is_resting == NULL)
        return NULL;
    int rests = PyObject_IsTrue(is_resting);
    Py_DECREF(is_resting);
    return done(rests ? 0 : watch(self));
}

static PyObject *
transport_over(PyObject *self, PyObject *clean)
{
    return done(over(self, PyObject_IsTrue(clean)));
}

static PyObject *
transport_init(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count < 3 || count > 6) {
        PyErr_SetString(PyExc_TypeError, "BareTransport() takes 3 to 6 arguments");
        return NULL;
    }
    FILL(self, transport, Py_False, T_ABORTED, T_CLOSING, T_FIN_CAME, T_IS_FULL, T_HALF_CLOSED, T_HAS_INPUT, T_HAS_WRITTEN,
         T_IS_SCHEDULED, T_PAUSED, T_PEER_ENDED, T_PUTS_URGENT, T_READS_ON, T_READS_SMALL, T_WAS_BULK);
    FILL(self, transport, Py_None, T_RECV, T_SEND, T_SOCK, T_UNSENT, T_WRITER, T_STREAM);
    PyObject *is_delaying = count > 5 ? args[5] : Py_False;
    put_new(&T(T_POLLER), args[0]);
    put_new(&T(T_FD), args[1]);
    put_new(&T(T_FAMILY), args[2]);
    put_new(&T(T_PEER), count > 3 ? args[3] : Py_None);
    put_new(&T(T_EVENTS), count > 4 ? args[4] : zero);
    put_new(&T(T_IS_DELAYING), is_delaying);
    SET(self, transport, T_SENDS_AT_ONCE, is_delaying != Py_True);
    SET(self, transport, T_IS_READING, 1);
    SET(self, transport, T_SENDS_FIN, 1);
    put_new(&T(T_READ_SIZE), read_size_object);
    put_new(&T(T_UNSENT_SIZE), zero);
    return Py_NewRef(Py_None);
}

/* Stream: the methods that only pass on to its transport. */

static PyObject *
stream_pass(PyObject *self, PyCFunction direct, PyObject *name, int ends_writing, PyObject *otherwise)
{
    if (!IS(self, stream, S_IS_OPEN))
        return Py_NewRef(otherwise);
    if (ends_writing)
        put_new(&S(S_WRITE), nothing);
    PyObject *transport = Py_NewRef(S(S_TRANSPORT));
    PyObject *result = IS_A(transport, transport) ? direct(transport, NULL) : PyObject_CallMethodNoArgs(transport, name);
    Py_DECREF(transport);
    return result;
}

static PyObject *
stream_pause(PyObject *self, PyObject *unused)
{
    (void)unused;
    return stream_pass(self, transport_pause, s_pause, 0, Py_None);
}

static PyObject *
stream_resume(PyObject *self, PyObject *unused)
{
    (void)unused;
    return stream_pass(self, transport_resume, s_resume, 0, Py_None);
}

static PyObject *
stream_half_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    return stream_pass(self, transport_half_close, s_half_close, 1, Py_None);
}

static PyObject *
stream_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    return stream_pass(self, transport_close, s_close, 1, Py_True);
}

static PyObject *
stream_abort(PyObject *self, PyObject *unused)
{
    (void)unused;
    return stream_pass(self, transport_abort, s_abort, 1, Py_None);
}

static PyObject *
stream_set_backpressure(PyObject *self, PyObject *writer)
{
    if (!IS(self, stream, S_IS_OPEN))
        return Py_NewRef(Py_None);
    PyObject *transport = S(S_TRANSPORT);
    return IS_A(transport, transport) ? transport_set_backpressure(transport, writer)
                                      : PyObject_CallMethodOneArg(transport, s_set_backpressure, writer);
}

static PyObject *
stream_lost(PyObject *self, PyObject *clean)
{
    return done(stream_over(self, clean));
}

static PyObject *
stream_use_transport(PyObject *self, PyObject *transport)
{
    return done(use_transport(self, transport));
}

static PyObject *
stream_read_connection_lost(PyObject *self, PyObject *unused)
{
    (void)unused;
    return done(stream_ended(self));
}

static PyObject *
stream_init(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count > 1) {
        PyErr_SetString(PyExc_TypeError, "Stream() takes at most one argument");
        return NULL;
    }
    FILL(self, stream, nothing, S_BULK_DETECTED, S_DATA_RECEIVED, S_ENDED, S_LOST, S_WRITE);
    FILL(self, stream, Py_False, S_IS_OPEN, S_PEER_ENDED, S_RESTING);
    FILL(self, stream, Py_None, S_CALLED, S_TIMER, S_TLS, S_TRANSPORT);
    put_new(&S(S_CONNECTED), zero);
    put_new(&S(S_MADE), count ? args[0] : nothing);
    return Py_NewRef(Py_None);
}

/* Accept and connect. */

static PyObject *
peer_name(const struct sockaddr_storage *peer)
{
    char text[INET6_ADDRSTRLEN];
    if (peer->ss_family == AF_INET) {
        const struct sockaddr_in *address = (const struct sockaddr_in *)peer;
        inet_ntop(AF_INET, &address->sin_addr, text, sizeof text);
        return Py_BuildValue("si", text, (int)ntohs(address->sin_port));
    }
    const struct sockaddr_in6 *address = (const struct sockaddr_in6 *)peer;
    inet_ntop(AF_INET6, &address->sin6_addr, text, sizeof text);
    return Py_BuildValue("siII", text, (int)ntohs(address->sin6_port), (unsigned int)ntohl(address->sin6_flowinfo),
                         (unsigned int)address->sin6_scope_id);
}

/* accept_descriptor(listener, family): as in system/sockets.py, for listeners of IP. */
static PyObject *
accept_descriptor(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    struct sockaddr_storage peer;
    socklen_t size = sizeof peer;
    (void)module;
    if (count != 2 || PyLong_AsLong(args[1]) == AF_UNIX)
        return PyObject_Vectorcall(plain_accept, args, (size_t)count, NULL);
    int listener = PyObject_AsFileDescriptor(args[0]);
    if (listener < 0)
        return NULL;
    int descriptor = accept4(listener, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC);
    if (descriptor < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
            Py_RETURN_NONE;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *name = peer_name(&peer);
    PyObject *result = name == NULL ? NULL : Py_BuildValue("iN", descriptor, name);
    if (result == NULL)
        close(descriptor);
    return result;
}

/* A descriptor that connects to an address; -1 if that fails at once. host: numeric. */
static int
begin_connection(const char *host, int port)
{
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    int is_six = strchr(host, ':') != NULL;
    if (inet_pton(is_six ? AF_INET6 : AF_INET, host, is_six ? (void *)&six.sin6_addr : (void *)&four.sin_addr) != 1)
        return -1; /* it has a scope */
    int descriptor = socket(is_six ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0)
        return -1;
    int result = is_six ? connect(descriptor, (const struct sockaddr *)&six, sizeof six)
                        : connect(descriptor, (const struct sockaddr *)&four, sizeof four);
    if (result < 0 && errno != EINPROGRESS) {
        close(descriptor);
        return -1;
    }
    return descriptor;
}

/* BareAttempt(poller, address, stream, connected, failed) */
static PyObject *
attempt_init(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    static const int given[] = {A_POLLER, A_ADDRESS, A_STREAM, A_CONNECTED, A_FAILED};
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "BareAttempt() takes 5 arguments");
        return NULL;
    }
    for (int i = 0; i < 5; i++)
        put_new(&A(given[i]), args[i]);
    put_new(&A(A_FAMILY), family_unix);
    put_new(&A(A_FD), minus_one);
    put_new(&A(A_RETRY), Py_None);
    put_new(&A(A_IS_OVER), Py_False);
    return Py_NewRef(Py_None);
}

/* BareAttempt.start. Whatever fails is tried again in Python, where it fails in the same way. */
static PyObject *
attempt_start(PyObject *self, PyObject *unused)
{
    PyObject *address = A(A_ADDRESS), *poller = A(A_POLLER);
    int descriptor = -1;
    (void)unused;
    if (IS_A(address, inet) && IS_A(poller, poller)) {
        const char *host = PyUnicode_AsUTF8(SLOT(address, inet, I_HOST));
        long port = PyLong_AsLong(SLOT(address, inet, I_PORT));
        if (host == NULL || PyErr_Occurred())
            PyErr_Clear();
        else
            descriptor = begin_connection(host, (int)port);
        if (descriptor >= 0) {
            struct epoll_event event = {.events = all_events, .data = {.fd = descriptor}};
            int epoll = (int)PyLong_AsLong(SLOT(poller, poller, P_DESCRIPTOR));
            if (epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) < 0) {
                close(descriptor);
                descriptor = -1;
            }
        }
    }
    if (descriptor < 0)
        return plainly(plain_start, self, NULL);
    PyObject *ready = PyObject_GetAttr(self, s_attempt_ready);
    int result = ready == NULL ? -1 : put_made(&A(A_FD), PyLong_FromLong(descriptor));
    put_new(&A(A_RETRY), Py_None);
    put_new(&A(A_FAMILY), strchr(PyUnicode_AsUTF8(SLOT(address, inet, I_HOST)), ':') ? family_six : family_four);
    if (result == 0)
        result = PyDict_SetItem(SLOT(poller, poller, P_CALLBACKS), A(A_FD), ready);
    Py_XDECREF(ready);
    return done(result);
}

static PyObject *
attempt_begin(PyObject *self, PyObject *timeout)
{
    PyObject *arguments[] = {timeout, self}, *poller = A(A_POLLER);
    PyObject *result = IS_A(poller, poller) ? poller_expire_after(poller, arguments, 2)
                                            : PyObject_CallMethodObjArgs(poller, s_expire_after, timeout, self, NULL);
    if (result == NULL)
        return NULL;
    Py_DECREF(result);
    return PyObject_CallMethodNoArgs(self, s_start);
}

/* BareAttempt._ready */
static PyObject *
attempt_ready(PyObject *self, PyObject *argument)
{
    unsigned long events = PyLong_AsUnsignedLong(argument);
    PyObject *poller = A(A_POLLER);
    if (events == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    if (events & EPOLLERR || !IS_A(poller, poller))
        return plainly(plain_attempt_ready, self, argument);
    SET(self, attempt, A_IS_OVER, 1);
    PyObject *gone = poller_cancel_expiry(poller, self);
    Py_XDECREF(gone);
    PyObject *arguments[] = {poller, A(A_FD), A(A_FAMILY), Py_None, all_events_object,
                             PyLong_AsLong(A(A_FAMILY)) == AF_UNIX ? Py_False : Py_True};
    PyObject *transport = gone == NULL ? NULL : PyObject_Vectorcall((PyObject *)transport_layout.type, arguments, 6, NULL);
    PyObject *ready = transport == NULL ? NULL : PyObject_GetAttr(transport, s_ready);
    int result = ready == NULL ? -1 : PyDict_SetItem(SLOT(poller, poller, P_CALLBACKS), A(A_FD), ready);
    Py_XDECREF(ready);
    if (result == 0) {
        PyObject *stream = Py_NewRef(A(A_STREAM)), *connected = Py_NewRef(A(A_CONNECTED));
        PyObject *made = transport_begin(transport, stream);
        if (made != NULL) {
            Py_DECREF(made);
            made = PyObject_CallOneArg(connected, stream);
        }
        if (made == NULL)
            result = handle(self, s_stream_failed, transport);
        Py_XDECREF(made);
        Py_DECREF(connected);
        Py_DECREF(stream);
    }
    if (result == 0 && events != EPOLLOUT) {
        PyObject *made = transport_ready(transport, argument);
        Py_XDECREF(made);
        result = made == NULL ? -1 : 0;
    }
    Py_XDECREF(transport);
    return done(result);
}

/* Set-up. */

static PyMethodDef transport_methods[] = {
    {"__init__", METHOD(transport_init), METH_FASTCALL, NULL},
    {"begin", transport_begin, METH_O, NULL},
    {"ready", transport_ready, METH_O, NULL},
    {"_read", transport_read, METH_NOARGS, NULL},
    {"write", transport_write, METH_O, NULL},
    {"writev", transport_writev, METH_O, NULL},
    {"set_backpressure", transport_set_backpressure, METH_O, NULL},
    {"clear_backpressure", transport_clear_backpressure, METH_NOARGS, NULL},
    {"pause", transport_pause, METH_NOARGS, NULL},
    {"resume", transport_resume, METH_NOARGS, NULL},
    {"half_close", transport_half_close, METH_NOARGS, NULL},
    {"_send_fin", transport_send_fin, METH_NOARGS, NULL},
    {"close", transport_close, METH_NOARGS, NULL},
    {"abort", transport_abort, METH_NOARGS, NULL},
    {"_finish", transport_finish, METH_NOARGS, NULL},
    {"_over", transport_over, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef stream_methods[] = {
    {"__init__", METHOD(stream_init), METH_FASTCALL, NULL},
    {"pause", stream_pause, METH_NOARGS, NULL},
    {"resume", stream_resume, METH_NOARGS, NULL},
    {"half_close", stream_half_close, METH_NOARGS, NULL},
    {"close", stream_close, METH_NOARGS, NULL},
    {"abort", stream_abort, METH_NOARGS, NULL},
    {"set_backpressure", stream_set_backpressure, METH_O, NULL},
    {"over", stream_lost, METH_O, NULL},
    {"use_transport", stream_use_transport, METH_O, NULL},
    {"readConnectionLost", stream_read_connection_lost, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef attempt_methods[] = {
    {"__init__", METHOD(attempt_init), METH_FASTCALL, NULL},
    {"begin", attempt_begin, METH_O, NULL},
    {"start", attempt_start, METH_NOARGS, NULL},
    {"_ready", attempt_ready, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef poller_methods[] = {
    {"expire_after", METHOD(poller_expire_after), METH_FASTCALL, NULL},
    {"cancel_expiry", poller_cancel_expiry, METH_O, NULL},
    {"register", METHOD(poller_register), METH_FASTCALL, NULL},
    {"defer", poller_defer, METH_O, NULL},
    {"forget", poller_forget, METH_O, NULL},
    {"_call_deferred", poller_call_deferred, METH_NOARGS, NULL},
    {"doRead", poller_do_read, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* configure(transport, stream, poller, attempt, inet, functions, poller's module, sizes, events): see
 * streams/compiled.py. */
static PyObject *
configure(PyObject *module, PyObject *args)
{
    PyTypeObject *transport, *stream, *poller, *attempt, *inet;
    PyObject *functions[2], *names;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!O!O!O!(OO)O!(nnnn)(II)", &PyType_Type, &transport, &PyType_Type, &stream, &PyType_Type,
                          &poller, &PyType_Type, &attempt, &PyType_Type, &inet, &functions[0], &functions[1], &PyDict_Type,
                          &names, &read_size, &bulk_read_size, &bulk_size, &max_undivided, &read_events, &all_events))
        return NULL;
    if (read_size > (Py_ssize_t)sizeof buffer) {
        PyErr_SetString(PyExc_ValueError, "a small read is larger than its buffer");
        return NULL;
    }
    if (learn(&transport_layout, transport_names, transport) < 0 || learn(&stream_layout, stream_names, stream) < 0 ||
        learn(&poller_layout, poller_names, poller) < 0 || learn(&attempt_layout, attempt_names, attempt) < 0 ||
        learn(&inet_layout, inet_names, inet) < 0)
        return NULL;
    nothing = Py_NewRef(functions[0]);
    plain_accept = Py_NewRef(functions[1]);
    poller_module = Py_NewRef(names);
    const struct {
        PyObject **place;
        PyObject *value;
    } values[] = {
        {&plain_ready, PyObject_GetAttrString((PyObject *)transport, "ready")},
        {&plain_defer, PyObject_GetAttrString((PyObject *)poller, "defer")},
        {&plain_forget, PyObject_GetAttrString((PyObject *)poller, "forget")},
        {&plain_expire_after, PyObject_GetAttrString((PyObject *)poller, "expire_after")},
        {&plain_start, PyObject_GetAttrString((PyObject *)attempt, "start")},
        {&plain_attempt_ready, PyObject_GetAttrString((PyObject *)attempt, "_ready")},
        {&read_size_object, PyLong_FromSsize_t(read_size)},
        {&bulk_read_size_object, PyLong_FromSsize_t(bulk_read_size)},
        {&read_events_object, PyLong_FromUnsignedLong(read_events)},
        {&all_events_object, PyLong_FromUnsignedLong(all_events)},
        {&zero, PyLong_FromLong(0)},
        {&one, PyLong_FromLong(1)},
        {&minus_one, PyLong_FromLong(-1)},
        {&family_four, PyLong_FromLong(AF_INET)},
        {&family_six, PyLong_FromLong(AF_INET6)},
        {&family_unix, PyLong_FromLong(AF_UNIX)},
        {&no_bytes, PyBytes_FromString("")},
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        if ((*values[i].place = values[i].value) == NULL)
            return NULL;
    return Py_BuildValue("NNNN", methods_for(transport, transport_methods), methods_for(stream, stream_methods),
                         methods_for(poller, poller_methods), methods_for(attempt, attempt_methods));
}

static PyMethodDef module_functions[] = {
    {"configure", configure, METH_VARARGS,
     "configure(transport, stream, poller, attempt, inet, functions, names, sizes, events): return their compiled methods by name"},
    {"accept_descriptor", METHOD(accept_descriptor), METH_FASTCALL, "accept_descriptor(listener, family)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_bare", "Bare sockets, compiled.", -1, module_functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__bare(void)
{
    static const Variable names[] = {
        {&s_abort, "abort"}, {&s_attempt_ready, "_ready"}, {&s_bulk_detected, "bulk_detected"}, {&s_call_deferred, "_call_deferred"},
        {&s_callback_failed, "_callback_failed"}, {&s_cancel, "cancel"}, {&s_close, "close"},
        {&s_connection_made, "connectionMade"}, {&s_expire_after, "expire_after"}, {&s_start, "start"},
        {&s_data_received, "dataReceived"}, {&s_defer, "defer"}, {&s_deferred_failed, "_deferred_failed"},
        {&s_failed, "_failed"}, {&s_finish, "_finish"}, {&s_forget, "forget"}, {&s_half_close, "half_close"},
        {&s_has_forked, "has_forked"}, {&s_hold_rest, "_hold_rest"}, {&s_join, "join"}, {&s_note, "_note"}, {&s_over, "over"},
        {&s_pause, "pause"}, {&s_pause_writing, "pause_writing"}, {&s_read_connection_lost, "readConnectionLost"},
        {&s_read_soon, "_read_soon"}, {&s_ready, "ready"}, {&s_resting, "resting"}, {&s_resume, "resume"},
        {&s_stream_failed, "_stream_failed"}, {&s_use_transport, "use_transport"}, {&s_write, "write"}, {&s_send_fin, "_send_fin"},
        {&s_set_backpressure, "set_backpressure"}, {&s_watch, "_watch"}, {&s_write_failed, "_write_failed"},
        {&s_write_otherwise, "_write_otherwise"}, {NULL, NULL},
    };
    if (make_names(names) < 0)
        return NULL;
    return PyModule_Create(&definition);
}
