/* The usual way of a stream of HTTP/2, compiled: HTTP2ClientConnection._request_received and ._end_turn, and
 * HTTP2Transport._write, for a request without a body on a parked client connection, and for a response that is written
 * as a whole. Whatever is unusual is left to these methods as they are written in Python, before anything has changed.
 *
 * The objects are Python's own, with __slots__; their attributes are read and written at the slots' offsets. What is to
 * be done, and why, stands in http/http2_client_connection.py, http2_stream_connection.py and http2_transport.py.
 */

#define _GNU_SOURCE /* memmem */
#include "../_configuration.h"
#include <string.h>

enum { U_SERVICE, U_CONTEXT, U_PARKED, U_SETTINGS, U_TRANSPORTS, U_COUNT_IN, U_COUNT_OUT, U_IS_FULL, U_IS_OVER, U_PROTOCOL, U_HEADS,
       U_ANSWERED, U_IS_DEFERRED, U_DEFER, U_LAST_ACTIVITY };
FIELDS(multiplexer, "_service", "_context", "_parked", "_settings", "transports", "_count_in", "_count_out", "is_full", "is_over",
       "protocol", "heads", "_answered", "_is_deferred", "_defer", "_last_activity");

enum { T_MULTIPLEXER, T_METHOD, T_WRITTEN, T_BODY_LEFT, T_READER, T_IS_COMPLETE, T_INPUT, T_SENDER, T_HAS_FIN,
       T_IS_PAUSED, T_IS_SCHEDULED, T_IS_CLOSING, T_CONNECTION, T_STREAM_ID, T_DEADLINE, T_STREAM, T_WRITE };
FIELDS(transport, "_multiplexer", "_method", "_written", "_body_left", "_reader", "_is_complete", "_input", "_sender",
       "_has_fin", "_is_paused", "_is_scheduled", "_is_closing", "connection", "stream_id", "deadline", "stream", "write");

enum { N_IS_WHOLE, N_PIECES, N_STREAM_ID };
FIELDS(sender, "is_whole", "pieces", "stream_id");

enum { C_STATE, C_IS_LAST, C_HAS_ENDED, C_IS_FULL, C_HELD, C_PENDING, C_BODY, C_READER, C_LIMITS, C_EXCHANGE,
       C_DISPATCHER, C_BEGAN, C_LAST_ACTIVITY, C_ENDING, C_TIMER, C_ON_END, C_IS_PARKED };
FIELDS(connection, "state", "is_last", "has_ended", "is_full", "held", "pending", "body", "_reader", "limits", "exchange",
       "dispatcher", "began", "last_activity", "ending", "_timer", "on_end", "is_parked");

enum { X_SERVER, X_PLAIN, X_SENDER, X_FORWARDER, X_BYTES_IN, X_BYTES_OUT, X_SETTLED };
FIELDS(exchange, "server", "plain", "sender", "forwarder", "bytes_in", "bytes_out", "settled");

enum { D_CHOICE, D_LEASE, D_ENTRY, D_IS_WAITING };
FIELDS(dispatcher, "choice", "lease", "entry", "is_waiting");

enum { E_SETTINGS, E_PROXIES };
FIELDS(service, "settings", "proxies");

enum { P_IS_USED };
FIELDS(proxies, "is_used");

enum { S_DATA_RECEIVED };
FIELDS(stream, "dataReceived");

enum { H_HEADS };
FIELDS(heads, "_heads");

enum { K_LENGTH };
FIELDS(known, "length");

enum { V_STREAM_ID, V_REQUEST, V_END_STREAM, V_HEAD };
FIELDS(event, "stream_id", "request", "end_stream", "head");

enum { R_METHOD, R_PROTOCOL, R_LINES };
FIELDS(request, "method", "protocol", "lines");

static PyObject *idle_state, *client_gone, *nothing_to_end, *nothing, *zero, *nothing_moved, *no_text;
static PyObject *plain_request_received, *plain_write;
static PyObject *s_close_if_drained, *s_end_turn, *s_flush_now, *s_level, *s_log, *s_now, *s_respond,
    *s_stream_answered, *s_streams, *s_wheel;
static long max_parked, max_head, max_joined, state_level;

static inline int
is_text(PyObject *bytes, const char *text)
{
    size_t size = strlen(text);
    return (size_t)PyBytes_GET_SIZE(bytes) == size && memcmp(PyBytes_AS_STRING(bytes), text, size) == 0;
}

/* The wheel's tick, a new reference. */
static PyObject *
tick_of(PyObject *context)
{
    PyObject *wheel = PyObject_GetAttr(context, s_wheel);
    PyObject *now = wheel == NULL ? NULL : PyObject_GetAttr(wheel, s_now);
    Py_XDECREF(wheel);
    return now;
}

/* HTTP2Transport.begin, for a request without a body. */
static void
begin(PyObject *transport, PyObject *stream_id, PyObject *method)
{
    PyObject *sender = SLOT(transport, transport, T_SENDER);
    put_new(&SLOT(transport, transport, T_STREAM_ID), stream_id);
    put_new(&SLOT(sender, sender, N_STREAM_ID), stream_id);
    put_new(&SLOT(transport, transport, T_METHOD), method);
    put_new(&SLOT(transport, transport, T_WRITTEN), Py_None);
    put_new(&SLOT(transport, transport, T_BODY_LEFT), Py_None);
    put_new(&SLOT(transport, transport, T_READER), Py_None);
    put_new(&SLOT(transport, transport, T_IS_COMPLETE), Py_False);
    put_new(&SLOT(sender, sender, N_IS_WHOLE), Py_False);
}

/* HTTP2StreamConnection.reopen, for one whose timer runs. */
static int
reopen(PyObject *connection, PyObject *context)
{
    PyObject *exchange = SLOT(connection, connection, C_EXCHANGE), *dispatcher = SLOT(connection, connection, C_DISPATCHER);
    if (put_made(&SLOT(connection, connection, C_BEGAN), tick_of(context)) < 0)
        return -1;
    put_new(&SLOT(connection, connection, C_LAST_ACTIVITY), SLOT(connection, connection, C_BEGAN));
    put_new(&SLOT(connection, connection, C_IS_PARKED), Py_False);
    put_new(&SLOT(connection, connection, C_ENDING), no_text);
    put_new(&SLOT(exchange, exchange, X_BYTES_IN), zero);
    put_new(&SLOT(exchange, exchange, X_BYTES_OUT), zero);
    put_new(&SLOT(exchange, exchange, X_SETTLED), nothing_moved);
    put_new(&SLOT(dispatcher, dispatcher, D_CHOICE), Py_None);
    put_new(&SLOT(dispatcher, dispatcher, D_LEASE), Py_None);
    return 0;
}

/* True for a parked transport all of whose objects are as this file knows them. */
static int
is_usual(PyObject *transport)
{
    if (!IS_A(transport, transport) || !IS_A(SLOT(transport, transport, T_SENDER), sender) ||
        !IS_A(SLOT(transport, transport, T_STREAM), stream))
        return 0;
    PyObject *connection = SLOT(transport, transport, T_CONNECTION);
    return IS_A(connection, connection) && IS_A(SLOT(connection, connection, C_EXCHANGE), exchange) &&
           IS_A(SLOT(connection, connection, C_DISPATCHER), dispatcher) && SLOT(connection, connection, C_TIMER) != Py_None;
}

/* True for a request that this file begins. */
static int
is_plain(PyObject *event)
{
    if (!IS_A(event, event))
        return 0;
    PyObject *request = SLOT(event, event, V_REQUEST), *head = SLOT(event, event, V_HEAD);
    if (SLOT(event, event, V_END_STREAM) != Py_True || !IS_A(request, request) || !PyBytes_CheckExact(head) ||
        is_no_bytes(head) || !is_no_bytes(SLOT(request, request, R_PROTOCOL)))
        return 0;
    PyObject *lines = SLOT(request, request, R_LINES);
    static const char deadline[] = "grpc-timeout:";
    return PyBytes_CheckExact(lines) && memmem(PyBytes_AS_STRING(lines), (size_t)PyBytes_GET_SIZE(lines), deadline,
                                               sizeof deadline - 1) == NULL;
}

/* HTTP2ClientConnection._request_received */
static PyObject *
request_received(PyObject *self, PyObject *event)
{
    PyObject *parked = SLOT(self, multiplexer, U_PARKED), *service = SLOT(self, multiplexer, U_SERVICE);
    Py_ssize_t count = PyList_GET_SIZE(parked);
    if (!count || !is_plain(event) || !IS_A(service, service) ||
        SLOT(self, multiplexer, U_SETTINGS) != SLOT(service, service, E_SETTINGS) || !is_usual(PyList_GET_ITEM(parked, count - 1)))
        return plainly(plain_request_received, self, event);
    PyObject *transport = Py_NewRef(PyList_GET_ITEM(parked, count - 1)), *result = NULL;
    PyObject *connection = Py_NewRef(SLOT(transport, transport, T_CONNECTION));
    PyObject *stream_id = SLOT(event, event, V_STREAM_ID), *request = SLOT(event, event, V_REQUEST);
    begin(transport, stream_id, SLOT(request, request, R_METHOD));
    if (reopen(connection, SLOT(self, multiplexer, U_CONTEXT)) == 0 &&
        PyList_SetSlice(parked, count - 1, count, NULL) == 0 &&
        PyDict_SetItem(SLOT(self, multiplexer, U_TRANSPORTS), stream_id, transport) == 0)
        result = PyObject_CallOneArg(SLOT(self, multiplexer, U_COUNT_IN), connection);
    if (result != NULL) {
        Py_DECREF(result);
        PyObject *receive = Py_NewRef(SLOT(SLOT(transport, transport, T_STREAM), stream, S_DATA_RECEIVED));
        result = PyObject_CallOneArg(receive, SLOT(event, event, V_HEAD));
        Py_DECREF(receive);
    }
    Py_DECREF(connection);
    Py_DECREF(transport);
    return result;
}

/* HTTP2ClientConnection._end_turn_later */
static int
end_turn_later(PyObject *multiplexer)
{
    if (SLOT(multiplexer, multiplexer, U_IS_DEFERRED) == Py_True)
        return 0;
    PyObject *turn = PyObject_GetAttr(multiplexer, s_end_turn);
    if (turn == NULL)
        return -1;
    put_new(&SLOT(multiplexer, multiplexer, U_IS_DEFERRED), Py_True);
    PyObject *result = PyObject_CallOneArg(SLOT(multiplexer, multiplexer, U_DEFER), turn);
    Py_DECREF(turn);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* True if `data` may be one whole response, whose head is known. -1 with an exception. */
static int
is_whole(PyObject *heads, PyObject *data)
{
    const char *text = PyBytes_AS_STRING(data);
    Py_ssize_t size = PyBytes_GET_SIZE(data);
    const char *end = memmem(text, (size_t)(size < max_head ? size : max_head), "\r\n\r\n", 4);
    if (end == NULL)
        return 0;
    Py_ssize_t head_size = end + 4 - text;
    PyObject *head = PyBytes_FromStringAndSize(text, head_size);
    if (head == NULL)
        return -1;
    PyObject *known = PyDict_GetItemWithError(SLOT(heads, heads, H_HEADS), head);
    Py_DECREF(head);
    if (known == NULL && PyErr_Occurred())
        return -1;
    if (!IS_A(known, known))
        return 0;
    Py_ssize_t length = PyLong_AsSsize_t(SLOT(known, known, K_LENGTH));
    if (length < 0) /* chunked: if this is not its end, nothing is sent */
        return memcmp(text + size - 4, "\r\n\r\n", 4) == 0;
    return length == size - head_size;
}

/* HTTP2Transport._write */
static PyObject *
transport_write(PyObject *self, PyObject *data)
{
    PyObject *multiplexer = SLOT(self, transport, T_MULTIPLEXER), *sender = SLOT(self, transport, T_SENDER);
    PyObject *method = SLOT(self, transport, T_METHOD);
    if (!PyBytes_CheckExact(data) || SLOT(self, transport, T_STREAM) == Py_None ||
        SLOT(self, transport, T_BODY_LEFT) != Py_None || SLOT(self, transport, T_READER) != Py_None ||
        SLOT(self, transport, T_IS_COMPLETE) != Py_False || SLOT(self, transport, T_IS_CLOSING) != Py_False ||
        !IS_A(multiplexer, multiplexer) || SLOT(multiplexer, multiplexer, U_IS_FULL) != Py_False ||
        !IS_A(sender, sender) || PyList_GET_SIZE(SLOT(sender, sender, N_PIECES)) || !PyBytes_CheckExact(method) ||
        is_text(method, "HEAD") || is_text(method, "CONNECT") || !IS_A(SLOT(multiplexer, multiplexer, U_HEADS), heads))
        return plainly(plain_write, self, data);
    int whole = is_whole(SLOT(multiplexer, multiplexer, U_HEADS), data);
    if (whole < 0)
        return NULL;
    if (!whole)
        return plainly(plain_write, self, data);
    PyObject *sent = PyObject_CallMethodObjArgs(SLOT(multiplexer, multiplexer, U_PROTOCOL), s_respond,
                                                SLOT(self, transport, T_STREAM_ID), data, method, NULL);
    if (sent == NULL)
        return NULL;
    Py_DECREF(sent);
    if (sent != Py_True)
        return plainly(plain_write, self, data);
    put_new(&SLOT(self, transport, T_BODY_LEFT), zero);
    put_new(&SLOT(self, transport, T_IS_COMPLETE), Py_True);
    if (PyList_Append(SLOT(multiplexer, multiplexer, U_ANSWERED), self) < 0 || end_turn_later(multiplexer) < 0 ||
        (PyBytes_GET_SIZE(data) > max_joined && call(multiplexer, s_flush_now, NULL) < 0))
        return NULL;
    Py_RETURN_NONE;
}

/* HTTP2Transport.is_reusable and HTTP2StreamConnection.is_reusable, without what is the same for all streams. */
static int
is_reusable(PyObject *transport, PyObject *streams)
{
    if (!is_usual(transport) || SLOT(transport, transport, T_IS_CLOSING) != Py_False ||
        SLOT(transport, transport, T_IS_PAUSED) != Py_False || SLOT(transport, transport, T_IS_SCHEDULED) != Py_False ||
        SLOT(transport, transport, T_HAS_FIN) != Py_False || SLOT(transport, transport, T_DEADLINE) != Py_None ||
        PyList_GET_SIZE(SLOT(transport, transport, T_INPUT)) || SLOT(transport, transport, T_WRITE) == nothing)
        return 0;
    PyObject *connection = SLOT(transport, transport, T_CONNECTION);
    PyObject *exchange = SLOT(connection, connection, C_EXCHANGE), *dispatcher = SLOT(connection, connection, C_DISPATCHER);
    if (SLOT(connection, connection, C_STATE) != idle_state || SLOT(connection, connection, C_IS_LAST) != Py_False ||
        SLOT(connection, connection, C_HAS_ENDED) != Py_False || SLOT(connection, connection, C_IS_FULL) != Py_False ||
        !is_zero(SLOT(connection, connection, C_HELD)) || !is_no_bytes(SLOT(connection, connection, C_PENDING)) ||
        SLOT(connection, connection, C_BODY) != Py_None || SLOT(connection, connection, C_READER) != Py_None ||
        SLOT(connection, connection, C_LIMITS) != Py_None || SLOT(exchange, exchange, X_SERVER) != Py_None ||
        SLOT(exchange, exchange, X_PLAIN) != Py_None || SLOT(exchange, exchange, X_SENDER) != Py_None ||
        SLOT(exchange, exchange, X_FORWARDER) != Py_None || SLOT(dispatcher, dispatcher, D_ENTRY) != Py_None ||
        SLOT(dispatcher, dispatcher, D_IS_WAITING) != Py_False)
        return 0;
    PyObject *multiplexer = SLOT(transport, transport, T_MULTIPLEXER);
    if (!IS_A(multiplexer, multiplexer) ||
        PyDict_GetItemWithError(SLOT(multiplexer, multiplexer, U_TRANSPORTS), SLOT(transport, transport, T_STREAM_ID)) != transport)
        return PyErr_Occurred() ? -1 : 0;
    int is_open = PyDict_Contains(streams, SLOT(transport, transport, T_STREAM_ID));
    return is_open < 0 ? -1 : !is_open;
}

/* Parks a transport that is reusable, and appends its connection to `parked`. */
static int
park(PyObject *self, PyObject *transport, PyObject *parked)
{
    PyObject *connection = SLOT(transport, transport, T_CONNECTION);
    if (PyDict_DelItem(SLOT(self, multiplexer, U_TRANSPORTS), SLOT(transport, transport, T_STREAM_ID)) < 0)
        return -1;
    put_new(&SLOT(connection, connection, C_IS_PARKED), Py_True);
    put_new(&SLOT(connection, connection, C_ENDING), client_gone);
    put_new(&SLOT(connection, connection, C_ON_END), nothing_to_end);
    if (PyList_Append(SLOT(self, multiplexer, U_PARKED), transport) < 0)
        return -1;
    return PyList_Append(parked, connection);
}

/* Leaves a transport to HTTP2ClientConnection._stream_answered, and appends its connection to `parked` if it was. */
static int
leave_answered(PyObject *self, PyObject *transport, PyObject *parked)
{
    PyObject *is_parked = PyObject_CallMethodOneArg(self, s_stream_answered, transport);
    if (is_parked == NULL)
        return -1;
    Py_DECREF(is_parked);
    return is_parked == Py_True ? PyList_Append(parked, SLOT(transport, transport, T_CONNECTION)) : 0;
}

/* True if client connections can be parked now. -1 with an exception. */
static int
may_park(PyObject *self)
{
    PyObject *service = SLOT(self, multiplexer, U_SERVICE);
    if (!IS_A(service, service) || !IS_A(SLOT(service, service, E_PROXIES), proxies) ||
        SLOT(SLOT(service, service, E_PROXIES), proxies, P_IS_USED) != Py_False)
        return 0;
    PyObject *log = PyObject_GetAttr(SLOT(self, multiplexer, U_CONTEXT), s_log);
    PyObject *level = log == NULL ? NULL : PyObject_GetAttr(log, s_level);
    Py_XDECREF(log);
    if (level == NULL)
        return -1;
    long number = PyLong_AsLong(level);
    Py_DECREF(level);
    return PyErr_Occurred() ? -1 : number < state_level;
}

/* Parks the transports that can be, and appends their connections to `parked`. */
static int
end_streams(PyObject *self, PyObject *answered, PyObject *parked)
{
    int can_park = may_park(self), result = 0;
    PyObject *streams = can_park < 0 ? NULL : PyObject_GetAttr(SLOT(self, multiplexer, U_PROTOCOL), s_streams);
    if (streams == NULL || !PyDict_CheckExact(streams)) {
        Py_XDECREF(streams);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "streams is no dict");
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(answered) && result >= 0; i++) {
        PyObject *transport = PyList_GET_ITEM(answered, i);
        int is_parked = can_park && SLOT(self, multiplexer, U_IS_OVER) == Py_False &&
                        PyList_GET_SIZE(SLOT(self, multiplexer, U_PARKED)) < max_parked;
        if (is_parked)
            is_parked = is_reusable(transport, streams);
        result = is_parked < 0 ? -1 : is_parked ? park(self, transport, parked) : leave_answered(self, transport, parked);
    }
    Py_DECREF(streams);
    return result;
}

static int
count_out(PyObject *self, PyObject *parked)
{
    PyObject *result = PyObject_CallOneArg(SLOT(self, multiplexer, U_COUNT_OUT), parked);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* HTTP2ClientConnection._end_turn */
static PyObject *
end_turn(PyObject *self, PyObject *unused)
{
    PyObject *answered = SLOT(self, multiplexer, U_ANSWERED), *empty = PyList_New(0), *parked = PyList_New(0);
    (void)unused;
    if (empty == NULL || parked == NULL) {
        Py_XDECREF(empty);
        Py_XDECREF(parked);
        return NULL;
    }
    put_new(&SLOT(self, multiplexer, U_IS_DEFERRED), Py_False);
    SLOT(self, multiplexer, U_ANSWERED) = empty;
    int has_ended = PyList_GET_SIZE(answered) > 0;
    int result = has_ended ? end_streams(self, answered, parked) : 0;
    if (result == 0 && PyList_GET_SIZE(parked))
        result = count_out(self, parked);
    Py_DECREF(answered);
    Py_DECREF(parked);
    if (result == 0 && has_ended)
        result = put_made(&SLOT(self, multiplexer, U_LAST_ACTIVITY), tick_of(SLOT(self, multiplexer, U_CONTEXT)));
    if (result == 0)
        result = call(self, s_flush_now, NULL);
    if (result == 0 && has_ended)
        result = call(self, s_close_if_drained, NULL);
    return done(result);
}

static PyMethodDef multiplexer_methods[] = {
    {"_request_received", request_received, METH_O, NULL},
    {"_end_turn", end_turn, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef transport_methods[] = {
    {"_write", transport_write, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

/* configure(classes, values): see http/http2_compiled.py. */
static PyObject *
configure(PyObject *module, PyObject *args)
{
    static const Class all[] = {
        CLASS(multiplexer), CLASS(transport), CLASS(sender), CLASS(connection), CLASS(exchange), CLASS(dispatcher),
        CLASS(service), CLASS(proxies), CLASS(stream), CLASS(heads), CLASS(known), CLASS(event), CLASS(request),
        {NULL, NULL, NULL},
    };
    static const Variable values[] = {
        {&idle_state, "idle"}, {&client_gone, "client_gone"}, {&nothing_to_end, "nothing_to_end"},
        {&nothing, "nothing"}, {NULL, NULL},
    };
    static const Variable of_multiplexers[] = {{&plain_request_received, "_request_received"}, {NULL, NULL}};
    static const Variable of_transports[] = {{&plain_write, "_write"}, {NULL, NULL}};
    PyObject *classes, *given;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!", &PyDict_Type, &classes, &PyDict_Type, &given) || learn_all(classes, all) < 0 ||
        take_values(given, values) < 0 || take_number(given, "max_parked", &max_parked) < 0 ||
        take_number(given, "max_head", &max_head) < 0 || take_number(given, "max_joined", &max_joined) < 0 ||
        take_number(given, "state_level", &state_level) < 0 ||
        take_methods(multiplexer_layout.type, of_multiplexers) < 0 ||
        take_methods(transport_layout.type, of_transports) < 0)
        return NULL;
    return Py_BuildValue("NN", methods_for(multiplexer_layout.type, multiplexer_methods),
                         methods_for(transport_layout.type, transport_methods));
}

static PyMethodDef functions[] = {
    {"configure", configure, METH_VARARGS, "configure(classes, values): return their compiled methods by name"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_http2_streams", "The usual way of a stream of HTTP/2, compiled.", -1, functions, NULL, NULL,
    NULL, NULL,
};

PyMODINIT_FUNC
PyInit__http2_streams(void)
{
    static const Variable names[] = {
        {&s_close_if_drained, "_close_if_drained"}, {&s_end_turn, "_end_turn"}, {&s_flush_now, "flush_now"},
        {&s_level, "level"}, {&s_log, "log"}, {&s_now, "now"}, {&s_respond, "respond"},
        {&s_stream_answered, "_stream_answered"}, {&s_streams, "streams"}, {&s_wheel, "wheel"}, {NULL, NULL},
    };
    if (make_names(names) < 0)
        return NULL;
    zero = PyLong_FromLong(0);
    nothing_moved = Py_BuildValue("(ii)", 0, 0);
    no_text = PyUnicode_FromString("");
    if (zero == NULL || nothing_moved == NULL || no_text == NULL)
        return NULL;
    return PyModule_Create(&definition);
}
