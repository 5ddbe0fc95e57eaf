/* Whole connections, compiled: the methods of TCPClientConnection that every connection calls, for schedulers that choose
 * at once or by the head of the first request.
 *
 * The objects are Python's own, with __slots__. A method here does what the method of the same name does in
 * tcp/connection.py, where the reasons stand. Whatever is unusual (an access log, a ClientHello, a head in pieces, limits
 * of the client, a side that was reset) goes to the methods there, before anything has changed.
 */

#include "../dispatch/_leases.h"
#include <string.h>

enum { C_ALERT, C_BEGINNING, C_CONNECTING, C_FIRST, C_FIRST_BYTE, C_HELLO_READER, C_IS_SETTLED, C_READER, C_SENT_SSL_REQUEST, C_SERVER,
       C_CLIENT, C_CONTEXT, C_DISPATCHER, C_IS_OVER, C_LIMITS, C_RELAY, C_SERVICE, C_STATE };
FIELDS(connection, "_alert", "_beginning", "_connecting", "_first", "_first_byte", "_hello_reader", "_is_settled", "_reader",
       "_sent_ssl_request", "server", "client", "context", "dispatcher", "is_over", "limits", "relay", "service", "state");

enum { D_ENTRY, D_LEASE, D_REQUEST };
FIELDS(dispatcher, "entry", "lease", "request");

enum { R_CONNECTION, R_LINES, R_METHOD, R_PATH, R_TARGET };
FIELDS(request, "connection", "lines", "method", "path", "target");

enum { V_CONNECTORS, V_ACCESS_LOG, V_CHALLENGES, V_PROXIES, V_SETTINGS, V_TAKE_PRECONNECTED, V_UNIT };
FIELDS(service, "_connectors", "access_log", "challenges", "proxies", "settings", "take_preconnected", "unit");

enum { A_WRITER };
FIELDS(access_log, "writer");

enum { S_DATA_RECEIVED, S_ENDED, S_IS_OPEN, S_LOST, S_PEER_ENDED, S_TLS, S_TRANSPORT };
FIELDS(stream, "dataReceived", "ended", "is_open", "lost", "peer_ended", "tls", "transport");

enum { K_IS_DIRECT, K_TIMEOUT, K_ADDRESS };
FIELDS(connector, "_is_direct", "_timeout", "address");

enum { Y_INWARD, Y_OUTWARD };
FIELDS(relay, "inward", "outward");

enum { N_BYTES };
FIELDS(direction, "bytes");

enum { B_ADDRESS };
FIELDS(attempt, "_address");

#define C(field) SLOT(self, connection, field)

/* What configure() gets. */
static PyTypeObject *base_type;
static PyObject *per_connection, *first_request, *opening, *closed_state, *event_head, *event_chosen, *event_connected,
    *event_finished, *event_client_gone, *handshake_failure, *nothing, *no_preconnection, *match_head, *close_gracefully;
static PyObject *plain_opened, *plain_first_received, *plain_serve, *plain_connected, *plain_server_lost, *plain_end_if_over;
static PyObject *zero, *no_bytes;

static PyObject *s_begin, *s_cancel, *s_check_idle, *s_client_lost, *s_close, *s_close_other, *s_connected, *s_connector,
    *s_end, *s_ended_early, *s_finished, *s_first_received, *s_is_used, *s_groups, *s_head_lines, *s_head_size, *s_head_timed_out,
    *s_head_timeout, *s_init, *s_join, *s_not_connected, *s_origin, *s_pause, *s_poller, *s_read_timeout, *s_resume,
    *s_select, *s_server_lost, *s_set_timer, *s_settings, *s_start, *s_transition, *s_unit, *s_uri_size, *s_wheel;

static inline int
transition(PyObject *self, PyObject *event)
{
    return call(self, s_transition, event);
}

static inline int
stop_timer(PyObject *self)
{
    return call(self, s_set_timer, zero);
}

/* Starts the connection's timer. setting: of the service. due: the name of the method that it calls. */
static int
start_timer(PyObject *self, PyObject *setting, PyObject *due)
{
    PyObject *seconds = PyObject_GetAttr(SLOT(C(C_SERVICE), service, V_SETTINGS), setting);
    PyObject *method = seconds == NULL ? NULL : PyObject_GetAttr(self, due);
    PyObject *result = method == NULL ? NULL : PyObject_CallMethodObjArgs(self, s_set_timer, seconds, method, NULL);
    Py_XDECREF(seconds);
    Py_XDECREF(method);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static inline int
is_closed(PyObject *self)
{
    PyObject *state = C(C_STATE);
    return state == closed_state || (PyUnicode_Check(state) && PyUnicode_Compare(state, closed_state) == 0);
}

static inline int
is_stream(PyObject *object)
{
    return object != NULL && PyObject_TypeCheck(object, stream_layout.type);
}

static int
add(PyObject **place, PyObject *more)
{
    PyObject *sum = PyNumber_Add(*place, more);
    return put_made(place, sum);
}

/* Makes a slot call a method of the connection. */
static inline int
set_method(PyObject **place, PyObject *self, PyObject *name)
{
    return put_made(place, PyObject_GetAttr(self, name));
}

static PyObject *
connection_init(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "TCPClientConnection() takes 3 arguments");
        return NULL;
    }
    PyObject *unit = IS_A(args[0], service) ? Py_NewRef(SLOT(args[0], service, V_UNIT)) : PyObject_GetAttr(args[0], s_unit);
    if (unit == NULL)
        return NULL;
    PyObject *state = PyDict_GetItemWithError(opening, unit);
    if (state == NULL && !PyErr_Occurred())
        PyErr_SetObject(PyExc_KeyError, unit);
    Py_DECREF(unit);
    if (state == NULL)
        return NULL;
    PyObject *all[] = {self, args[0], args[1], args[2], state};
    PyObject *result = call_base(base_type, s_init, all, 5);
    FILL(self, connection, Py_None, C_BEGINNING, C_CONNECTING, C_FIRST_BYTE, C_HELLO_READER, C_READER, C_SERVER);
    put_new(&C(C_FIRST), no_bytes);
    put_new(&C(C_SENT_SSL_REQUEST), Py_False);
    put_new(&C(C_IS_SETTLED), Py_False);
    put_new(&C(C_ALERT), handshake_failure);
    return result;
}

/* The client. */

static PyObject *
opened(PyObject *self, PyObject *unused)
{
    PyObject *service = C(C_SERVICE), *client = C(C_CLIENT), *dispatcher = C(C_DISPATCHER);
    (void)unused;
    if (!IS_A(service, service) || !is_stream(client) || !IS_A(dispatcher, dispatcher))
        return plainly(plain_opened, self, NULL);
    PyObject *log = SLOT(service, service, V_ACCESS_LOG), *unit = SLOT(service, service, V_UNIT);
    PyObject *request = SLOT(dispatcher, dispatcher, D_REQUEST);
    if ((unit != per_connection && unit != first_request) || !IS_A(log, access_log) ||
        SLOT(log, access_log, A_WRITER) != Py_None || !IS_A(request, request))
        return plainly(plain_opened, self, NULL);
    if (set_method(&SLOT(client, stream, S_LOST), self, s_client_lost) < 0)
        return NULL;
    put_new(&SLOT(request, request, R_CONNECTION), client);
    if (unit == per_connection)
        return call(client, s_pause, NULL) < 0 ? NULL : PyObject_CallMethodNoArgs(dispatcher, s_select);
    if (set_method(&SLOT(client, stream, S_DATA_RECEIVED), self, s_first_received) < 0 ||
        set_method(&SLOT(client, stream, S_ENDED), self, s_ended_early) < 0)
        return NULL;
    return done(start_timer(self, s_head_timeout, s_head_timed_out));
}

/* The limits of a head, by the settings that were used last. */
static struct {
    PyObject *settings;
    Py_ssize_t head_size, head_lines, uri_size;
} limits;

static int
use_limits(PyObject *settings)
{
    const struct {
        PyObject *name;
        Py_ssize_t *place;
    } all[] = {{s_head_size, &limits.head_size}, {s_head_lines, &limits.head_lines}, {s_uri_size, &limits.uri_size}};
    if (settings == limits.settings)
        return 0;
    Py_CLEAR(limits.settings);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        PyObject *value = PyObject_GetAttr(settings, all[i].name);
        if (value == NULL)
            return -1;
        *all[i].place = PyLong_AsSsize_t(value);
        Py_DECREF(value);
        if (PyErr_Occurred())
            return -1;
    }
    limits.settings = Py_NewRef(settings);
    return 0;
}

static int
has_more_lines(PyObject *lines, Py_ssize_t most)
{
    const char *at = PyBytes_AS_STRING(lines), *end = at + PyBytes_GET_SIZE(lines);
    while (at < end && (at = memchr(at, '\n', (size_t)(end - at))) != NULL) {
        if (--most < 0)
            return 1;
        at++;
    }
    return 0;
}

/* The groups of a whole head, a new reference; None when the other way must read it. */
static PyObject *
read_head(PyObject *data)
{
    PyObject *found = PyObject_CallOneArg(match_head, data);
    if (found == NULL || found == Py_None)
        return found;
    PyObject *groups = PyObject_CallMethodNoArgs(found, s_groups);
    Py_DECREF(found);
    if (groups == NULL)
        return NULL;
    PyObject *target = PyTuple_GET_ITEM(groups, 2), *lines = PyTuple_GET_ITEM(groups, 4);
    Py_ssize_t size = PyBytes_Check(target) ? PyBytes_GET_SIZE(target) : 0;
    if (size == 0 || PyBytes_AS_STRING(target)[0] != '/' || size > limits.uri_size || !PyBytes_Check(lines) ||
        has_more_lines(lines, limits.head_lines)) {
        Py_DECREF(groups);
        return Py_NewRef(Py_None);
    }
    return groups;
}

static PyObject *
first_received(PyObject *self, PyObject *data)
{
    PyObject *service = C(C_SERVICE), *client = C(C_CLIENT), *dispatcher = C(C_DISPATCHER);
    if (!IS_A(service, service) || !is_stream(client) || !IS_A(dispatcher, dispatcher) || C(C_LIMITS) != Py_None ||
        SLOT(dispatcher, dispatcher, D_ENTRY) != Py_None || !IS_A(SLOT(dispatcher, dispatcher, D_REQUEST), request) ||
        SLOT(service, service, V_CHALLENGES) != Py_None || !PyBytes_CheckExact(data))
        return plainly(plain_first_received, self, data);
    PyObject *has_proxies = PyObject_GetAttr(SLOT(service, service, V_PROXIES), s_is_used);
    if (has_proxies == NULL)
        return NULL;
    Py_DECREF(has_proxies); /* which lives on as True or False */
    if (has_proxies != Py_False) /* they may tell another client */
        return plainly(plain_first_received, self, data);
    if (use_limits(SLOT(service, service, V_SETTINGS)) < 0)
        return NULL;
    if (PyBytes_GET_SIZE(data) > limits.head_size)
        return plainly(plain_first_received, self, data);
    PyObject *head = read_head(data);
    if (head == NULL)
        return NULL;
    if (head == Py_None) {
        Py_DECREF(head);
        return plainly(plain_first_received, self, data);
    }
    PyObject *request = SLOT(dispatcher, dispatcher, D_REQUEST), *target = PyTuple_GET_ITEM(head, 2);
    put_new(&C(C_FIRST), data);
    put_new(&SLOT(request, request, R_METHOD), PyTuple_GET_ITEM(head, 1));
    put_new(&SLOT(request, request, R_TARGET), target);
    put_new(&SLOT(request, request, R_PATH), target);
    put_new(&SLOT(request, request, R_LINES), PyTuple_GET_ITEM(head, 4));
    put_new(&SLOT(client, stream, S_ENDED), nothing);
    Py_DECREF(head);
    if (stop_timer(self) < 0 || call(client, s_pause, NULL) < 0 || transition(self, event_head) < 0)
        return NULL;
    return PyObject_CallMethodNoArgs(dispatcher, s_select);
}

/* The server. */

/* The connector of a server, a new reference. */
static PyObject *
connector_of(PyObject *service, PyObject *destination)
{
    PyObject *known = SLOT(service, service, V_CONNECTORS);
    PyObject *found = PyDict_Check(known) ? PyDict_GetItemWithError(known, destination) : NULL;
    if (found != NULL)
        return Py_NewRef(found);
    return PyErr_Occurred() ? NULL : PyObject_CallMethodOneArg(service, s_connector, destination);
}

/* Connector.begin for a socket that stays bare. */
static PyObject *
begin_directly(PyObject *connector, PyObject *poller, PyObject *stream, PyObject *connected, PyObject *failed)
{
    PyObject *arguments[] = {poller, SLOT(connector, connector, K_ADDRESS), stream, connected, failed};
    PyObject *timeout = Py_NewRef(SLOT(connector, connector, K_TIMEOUT));
    if (PyCallable_Check(timeout)) {
        PyObject *value = PyObject_CallNoArgs(timeout);
        Py_DECREF(timeout);
        timeout = value;
    }
    PyObject *attempt = timeout == NULL ? NULL : PyObject_Vectorcall((PyObject *)attempt_layout.type, arguments, 5, NULL);
    if (attempt != NULL && call(attempt, s_begin, timeout) < 0)
        Py_CLEAR(attempt);
    Py_XDECREF(timeout);
    return attempt;
}

static PyObject *
begin(PyObject *self, PyObject *connector)
{
    PyObject *client = C(C_CLIENT), *transport = IS(client, stream, S_IS_OPEN) ? SLOT(client, stream, S_TRANSPORT) : Py_None;
    PyObject *poller = transport == Py_None ? Py_NewRef(Py_None) : PyObject_GetAttr(transport, s_poller);
    PyObject *stream = PyObject_CallNoArgs((PyObject *)stream_layout.type);
    PyObject *connected = PyObject_GetAttr(self, s_connected), *failed = PyObject_GetAttr(self, s_not_connected);
    PyObject *attempt = NULL;
    if (poller != NULL && stream != NULL && connected != NULL && failed != NULL) {
        if (poller != Py_None && IS_A(connector, connector) && IS(connector, connector, K_IS_DIRECT))
            attempt = begin_directly(connector, poller, stream, connected, failed);
        else {
            PyObject *origin = PyObject_GetAttr(self, s_origin);
            if (origin != NULL)
                attempt = PyObject_CallMethodObjArgs(connector, s_begin, stream, connected, failed, poller, origin, NULL);
            Py_XDECREF(origin);
        }
    }
    Py_XDECREF(poller);
    Py_XDECREF(stream);
    Py_XDECREF(connected);
    Py_XDECREF(failed);
    return attempt;
}

static PyObject *
serve(PyObject *self, PyObject *choice)
{
    PyObject *service = C(C_SERVICE);
    if (!IS_A(service, service) || !IS_A(choice, choice) || !is_stream(C(C_CLIENT)))
        return plainly(plain_serve, self, choice);
    PyObject *destination = SLOT(choice, choice, O_DESTINATION), *take = SLOT(service, service, V_TAKE_PRECONNECTED);
    if (take != no_preconnection)
        return plainly(plain_serve, self, choice);
    if (transition(self, event_chosen) < 0)
        return NULL;
    PyObject *connector = connector_of(service, destination);
    PyObject *attempt = connector == NULL ? NULL : begin(self, connector);
    Py_XDECREF(connector);
    return done(put_made(&C(C_CONNECTING), attempt));
}

/* TCPClientConnection._connected and _server_ready */
static PyObject *
connected(PyObject *self, PyObject *server)
{
    PyObject *dispatcher = C(C_DISPATCHER), *client = C(C_CLIENT);
    PyObject *lease = IS_A(dispatcher, dispatcher) ? SLOT(dispatcher, dispatcher, D_LEASE) : NULL;
    PyObject *destination = IS_A(lease, lease) ? SLOT(lease, lease, L_DESTINATION) : NULL;
    if (IS(self, connection, C_SENT_SSL_REQUEST) || !is_destination(destination) || !is_stream(server) ||
        !IS_A(C(C_SERVICE), service) || SLOT(dispatcher, dispatcher, D_ENTRY) != Py_None || C(C_READER) != Py_None ||
        C(C_HELLO_READER) != Py_None || is_closed(self) ||
        SLOT(destination, destination, T_MEASURED_ERRORS) != Py_None)
        return plainly(plain_connected, self, server);
    put_new(&C(C_CONNECTING), Py_None);
    put_new(&C(C_SERVER), server);
    if (set_method(&SLOT(server, stream, S_LOST), self, s_server_lost) < 0 || transition(self, event_connected) < 0)
        return NULL;
    PyObject *one = PyLong_FromLong(1);
    int result = one == NULL ? -1 : add(&SLOT(destination, destination, T_TOTAL), one);
    Py_XDECREF(one);
    put_new(&SLOT(destination, destination, T_ERRORS), zero);
    PyObject *wheel = result < 0 ? NULL : PyObject_GetAttr(C(C_CONTEXT), s_wheel);
    PyObject *finished = wheel == NULL ? NULL : PyObject_GetAttr(self, s_finished), *relay = NULL;
    if (finished != NULL) {
        PyObject *arguments[] = {client, server, wheel, finished};
        relay = PyObject_Vectorcall((PyObject *)relay_layout.type, arguments, 4, NULL);
    }
    Py_XDECREF(wheel);
    Py_XDECREF(finished);
    if (relay == NULL)
        return NULL;
    put_new(&C(C_RELAY), relay);
    PyObject *head = Py_NewRef(C(C_FIRST)), *request = SLOT(dispatcher, dispatcher, D_REQUEST);
    put_new(&C(C_FIRST), no_bytes);
    if (IS_A(request, request))
        put_new(&SLOT(request, request, R_LINES), no_bytes);
    result = start_timer(self, s_read_timeout, s_check_idle);
    if (result == 0)
        result = call(relay, s_start, head);
    if (result == 0)
        result = call(client, s_resume, NULL);
    if (result == 0)
        result = call(self, s_join, relay);
    Py_DECREF(head);
    Py_DECREF(relay);
    return done(result);
}

/* The end. */

/* close_gracefully(stream, wheel, settings): of lingering_close.py. */
static int
close_stream(PyObject *self, PyObject *stream)
{
    if (stream == Py_None || (is_stream(stream) && !IS(stream, stream, S_IS_OPEN)))
        return 0;
    if (is_stream(stream) && (SLOT(stream, stream, S_TLS) == Py_None || IS(stream, stream, S_PEER_ENDED))) {
        put_new(&SLOT(stream, stream, S_DATA_RECEIVED), nothing);
        put_new(&SLOT(stream, stream, S_ENDED), nothing);
        PyObject *closes = PyObject_CallMethodNoArgs(stream, s_close);
        if (closes == NULL)
            return -1;
        int closes_now = PyObject_IsTrue(closes);
        Py_DECREF(closes);
        if (closes_now || !IS(stream, stream, S_IS_OPEN))
            return closes_now < 0 ? -1 : 0;
    }
    PyObject *wheel = PyObject_GetAttr(C(C_CONTEXT), s_wheel);
    if (wheel == NULL)
        return -1;
    PyObject *settings = PyObject_GetAttr(C(C_SERVICE), s_settings), *result = NULL;
    if (settings != NULL)
        result = PyObject_CallFunctionObjArgs(close_gracefully, stream, wheel, settings, NULL);
    Py_XDECREF(settings);
    Py_DECREF(wheel);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static PyObject *
finished(PyObject *self, PyObject *unused)
{
    (void)unused;
    if (transition(self, event_finished) < 0 || stop_timer(self) < 0)
        return NULL;
    PyObject *client = Py_NewRef(C(C_CLIENT)), *server = Py_NewRef(C(C_SERVER));
    int result = close_stream(self, client);
    if (result == 0)
        result = close_stream(self, server);
    Py_DECREF(client);
    Py_DECREF(server);
    return done(result);
}

/* TCPClientConnection._close_other */
static int
close_other(PyObject *self, PyObject *other, PyObject *clean)
{
    if (other == Py_None || (is_stream(other) && !IS(other, stream, S_IS_OPEN)) || !is_closed(self))
        return 0;
    int result;
    Py_INCREF(other);
    if (clean == Py_True)
        result = stop_timer(self) < 0 ? -1 : close_stream(self, other);
    else {
        PyObject *made = PyObject_CallMethodObjArgs(self, s_close_other, other, clean, NULL);
        Py_XDECREF(made);
        result = made == NULL ? -1 : 0;
    }
    Py_DECREF(other);
    return result;
}

static PyObject *
end_if_over(PyObject *self, PyObject *unused)
{
    PyObject *client = C(C_CLIENT), *server = C(C_SERVER), *dispatcher = C(C_DISPATCHER), *relay = C(C_RELAY);
    (void)unused;
    if (!is_stream(client) || (server != Py_None && !is_stream(server)) || !IS_A(dispatcher, dispatcher))
        return plainly(plain_end_if_over, self, NULL);
    if (IS(client, stream, S_IS_OPEN) || C(C_CONNECTING) != Py_None ||
        (server != Py_None && IS(server, stream, S_IS_OPEN)) || IS(self, connection, C_IS_OVER))
        return Py_NewRef(Py_None);
    PyObject *lease = SLOT(dispatcher, dispatcher, D_LEASE);
    if (SLOT(dispatcher, dispatcher, D_ENTRY) != Py_None || !IS_A(lease, lease) || !IS_A(relay, relay) || server == Py_None ||
        !is_destination(SLOT(lease, lease, L_DESTINATION)))
        return plainly(plain_end_if_over, self, NULL);
    PyObject *destination = Py_NewRef(SLOT(lease, lease, L_DESTINATION));
    PyObject *inward = SLOT(relay, relay, Y_INWARD), *outward = SLOT(relay, relay, Y_OUTWARD);
    PyObject *in = Py_NewRef(SLOT(inward, direction, N_BYTES)), *out = Py_NewRef(SLOT(outward, direction, N_BYTES)), *made = NULL;
    if (PyObject_RichCompareBool(out, zero, Py_EQ)) { /* the server has sent nothing: that is explained there */
        made = plainly(plain_end_if_over, self, NULL);
        goto end;
    }
    if (stop_timer(self) < 0 || call(lease, s_end, NULL) < 0)
        goto end;
    if (!IS(self, connection, C_IS_SETTLED)) {
        SET(self, connection, C_IS_SETTLED, 1);
        if (add(&SLOT(destination, destination, T_BYTES_IN), in) < 0 || add(&SLOT(destination, destination, T_BYTES_OUT), out) < 0)
            goto end;
    }
    if (call(self, s_end, NULL) < 0)
        goto end;
    put_new(&C(C_RELAY), Py_None);
    put_new(&C(C_SERVER), Py_None);
    made = Py_NewRef(Py_None);
end:
    Py_DECREF(destination);
    Py_DECREF(in);
    Py_DECREF(out);
    return made;
}

static PyObject *
client_lost(PyObject *self, PyObject *clean)
{
    if (!is_closed(self) && transition(self, event_client_gone) < 0)
        return NULL;
    if (C(C_CONNECTING) != Py_None && call(C(C_CONNECTING), s_cancel, NULL) < 0)
        return NULL;
    return close_other(self, C(C_SERVER), clean) < 0 ? NULL : end_if_over(self, NULL);
}

static PyObject *
server_lost(PyObject *self, PyObject *clean)
{
    if (!is_closed(self))
        return plainly(plain_server_lost, self, clean);
    return close_other(self, C(C_CLIENT), clean) < 0 ? NULL : end_if_over(self, NULL);
}

/* Set-up. */

static PyMethodDef connection_methods[] = {
    {"__init__", METHOD(connection_init), METH_FASTCALL, NULL},
    {"_opened", opened, METH_NOARGS, NULL},
    {"_first_received", first_received, METH_O, NULL},
    {"serve", serve, METH_O, NULL},
    {"_connected", connected, METH_O, NULL},
    {"_finished", finished, METH_NOARGS, NULL},
    {"_client_lost", client_lost, METH_O, NULL},
    {"_server_lost", server_lost, METH_O, NULL},
    {"_end_if_over", end_if_over, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

/* configure(classes, values): see tcp/compiled.py. */
static PyObject *
configure(PyObject *module, PyObject *args)
{
    static const Class all[] = {
        CLASS(connection), CLASS(dispatcher), CLASS(request), CLASS(service), CLASS(access_log), CLASS(stream),
        CLASS(connector), CLASS(choice), CLASS(lease), CLASS(destination), CLASS(relay), CLASS(direction),
        CLASS(attempt), {NULL, NULL, NULL},
    };
    static const Variable values[] = {
        {&per_connection, "per_connection"}, {&first_request, "first_request"}, {&opening, "opening"},
        {&closed_state, "closed"}, {&event_head, "head"}, {&event_chosen, "chosen"}, {&event_connected, "connected"},
        {&event_finished, "finished"}, {&event_client_gone, "client_gone"}, {&handshake_failure, "handshake_failure"},
        {&nothing, "nothing"}, {&no_preconnection, "no_preconnection"}, {&match_head, "match_head"},
        {&close_gracefully, "close_gracefully"}, {NULL, NULL},
    };
    static const Variable plain[] = {
        {&plain_opened, "_opened"}, {&plain_first_received, "_first_received"}, {&plain_serve, "serve"},
        {&plain_connected, "_connected"}, {&plain_server_lost, "_server_lost"}, {&plain_end_if_over, "_end_if_over"},
        {NULL, NULL},
    };
    PyObject *classes, *given;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!", &PyDict_Type, &classes, &PyDict_Type, &given) || learn_all(classes, all) < 0 ||
        take_class(classes, "base", &base_type) < 0 ||
        take_class(classes, "shared_destination", &shared_destination_type) < 0 || take_values(given, values) < 0 ||
        take_methods(connection_layout.type, plain) < 0)
        return NULL;
    return Py_BuildValue("(N)", methods_for(connection_layout.type, connection_methods));
}

static PyMethodDef module_functions[] = {
    {"configure", configure, METH_VARARGS, "configure(classes, values): return their compiled methods by name"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_connection", "Whole connections, compiled.", -1, module_functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__connection(void)
{
    static const Variable names[] = {
        {&s_begin, "begin"}, {&s_cancel, "cancel"}, {&s_check_idle, "_check_idle"}, {&s_client_lost, "_client_lost"},
        {&s_close, "close"}, {&s_close_other, "_close_other"}, {&s_connected, "_connected"}, {&s_connector, "connector"},
        {&s_end, "end"}, {&s_ended_early, "_ended_early"}, {&s_finished, "_finished"},
        {&s_first_received, "_first_received"}, {&s_is_used, "is_used"}, {&s_groups, "groups"}, {&s_head_lines, "head_lines"},
        {&s_head_size, "head_size"}, {&s_head_timed_out, "_head_timed_out"}, {&s_head_timeout, "head_timeout"},
        {&s_init, "__init__"}, {&s_join, "join"}, {&s_not_connected, "_not_connected"}, {&s_origin, "origin"},
        {&s_pause, "pause"}, {&s_poller, "poller"}, {&s_read_timeout, "read_timeout"}, {&s_resume, "resume"},
        {&s_select, "select"}, {&s_server_lost, "_server_lost"}, {&s_set_timer, "set_timer"}, {&s_settings, "settings"}, {&s_start, "start"},
        {&s_transition, "transition"}, {&s_unit, "unit"}, {&s_uri_size, "uri_size"}, {&s_wheel, "wheel"}, {NULL, NULL},
    };
    if (make_names(names) < 0)
        return NULL;
    no_bytes = PyBytes_FromString("");
    zero = PyLong_FromLong(0);
    return no_bytes && zero ? PyModule_Create(&definition) : NULL;
}
