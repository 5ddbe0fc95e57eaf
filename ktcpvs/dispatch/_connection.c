/* The life of client connections, compiled: the methods of ClientConnection, Dispatcher, CopyRelay and Direction that
 * every connection or every message calls.
 *
 * The objects are Python's own, with __slots__. A method here does what the method of the same name does in
 * dispatch/client_connection.py, dispatch/dispatcher.py or relay/copy.py, where the reasons stand. Whatever is unusual
 * (logged events, a full server, a queue, a failed scheduler) goes to the methods there, before anything has changed.
 */

#include "_leases.h"

enum { C_TIMER, C_BEGAN, C_CLIENT, C_CLIENT_NAME, C_CONTEXT, C_DISPATCHER, C_ENDING, C_HANDOVER, C_IS_OVER,
       C_LAST_ACTIVITY, C_LIMITS, C_ON_END, C_RELAY, C_SERVICE, C_STATE };
FIELDS(connection, "_timer", "began", "client", "client_name", "context", "dispatcher", "ending", "handover", "is_over",
       "last_activity", "limits", "on_end", "relay", "service", "state");

enum { D_LOG, D_OWNER, D_PENDING, D_QUEUED_SINCE, D_REFUSED, D_SERVICE, D_SETTINGS_OF, D_CHOICE, D_COMPLETED, D_ENTRY, D_FAILED,
       D_IS_RETRY, D_IS_WAITING, D_LEASE, D_REQUEST, D_USES_SCHEDULER };
FIELDS(dispatcher, "_log", "_owner", "_pending", "_queued_since", "_refused", "_service", "_settings_of", "choice", "completed", "entry",
       "failed_connections", "is_retry", "is_waiting", "lease", "request", "uses_scheduler");

enum { R_CLIENT, R_METHOD, R_TARGET, R_PATH, R_LINES, R_TRIED, R_FAILED, R_SERVER_NAME, R_PROTOCOLS, R_BODY_PREFIX,
       R_IS_REPEATED, R_COMPLETED };
FIELDS(request, "client", "method", "target", "path", "lines", "tried", "failed", "server_name", "protocols", "body_prefix",
       "is_repeated", "completed");

enum { V_CONTEXT, V_RELAY, V_SELECTOR };
FIELDS(service, "context", "relay", "selector");

enum { X_ENGINE, X_JOINED, X_WAITS_FOR_BULK };
FIELDS(relay_choice, "engine", "joined", "waits_for_bulk");

enum { S_SCHEDULER, S_USABLE, S_EXCLUDED, S_COMPLETED };
FIELDS(selector, "scheduler", "usable", "excluded", "completed");

enum { I_CALL };
FIELDS(timer, "call");

enum { E_NOW, E_SLOTS };
FIELDS(wheel, "now", "_slots");

enum { Y_FINISHED, Y_INWARD, Y_OUTWARD };
FIELDS(relay, "finished", "inward", "outward");

enum { N_WHEEL, N_WRITE, N_BYTES, N_ENDED, N_LAST_DATA, N_SOURCE, N_TARGET };
FIELDS(direction, "_wheel", "_write", "bytes", "ended", "last_data", "source", "target");

enum { W_BULK_DETECTED, W_IS_OPEN, W_TRANSPORT };
FIELDS(stream, "bulk_detected", "is_open", "transport");

/* What configure() gets. */
static PyObject *no_destinations, *no_bytes, *no_text, *no_objects, *on_end_of_none, *closed_state, *copy_relay;
static PyObject *plain_transition, *plain_join, *plain_select, *plain_take, *plain_end, *zero, *one;
static long state_level, scheduling_level;

static PyObject *s_after, *s_bulk_detected, *s_cancel, *s_choice_failed, *s_choose, *s_context, *s_data_received, *s_detach,
    *s_excluded, *s_ended, *s_get, *s_half_close, *s_handle_answer, *s_inward_ended, *s_keep_urgent, *s_level, *s_log, *s_now,
    *s_opened, *s_outward_ended, *s_received, *s_reports_bulk, *s_selector, *s_serve, *s_set_backpressure, *s_table, *s_wheel,
    *s_write;

static PyObject *
make(Layout *layout)
{
    return layout->type->tp_alloc(layout->type, 0);
}

/* 1 if events of that level are written; -1 with an exception. */
static int
is_logged(PyObject *log, long level)
{
    PyObject *limit = PyObject_GetAttr(log, s_level);
    if (limit == NULL)
        return -1;
    long value = PyLong_AsLong(limit);
    Py_DECREF(limit);
    return value == -1 && PyErr_Occurred() ? -1 : value >= level;
}

/* Sets a slot to the wheel's tick. context: of the process. */
static int
put_now(PyObject **place, PyObject *context)
{
    PyObject *wheel = PyObject_GetAttr(context, s_wheel);
    if (wheel == NULL)
        return -1;
    int result = put_made(place, PyObject_GetAttr(wheel, s_now));
    Py_DECREF(wheel);
    return result;
}

/* TimerWheel.after */
static PyObject *
set_off(PyObject *wheel, PyObject *seconds, PyObject *due)
{
    if (!IS_A(wheel, wheel) || !PyLong_CheckExact(seconds))
        return PyObject_CallMethodObjArgs(wheel, s_after, seconds, due, NULL);
    PyObject *slots = SLOT(wheel, wheel, E_SLOTS);
    long tick = PyLong_AsLong(SLOT(wheel, wheel, E_NOW)) + 1 + PyLong_AsLong(seconds);
    PyObject *timer = PyErr_Occurred() ? NULL : make(&timer_layout);
    PyObject *key = timer == NULL ? NULL : PyLong_FromLong(tick);
    if (key == NULL) {
        Py_XDECREF(timer);
        return NULL;
    }
    SLOT(timer, timer, I_CALL) = Py_NewRef(due);
    PyObject *slot = PyDict_GetItemWithError(slots, key);
    int result = -1;
    if (slot != NULL)
        result = PyList_Append(slot, timer);
    else if (!PyErr_Occurred() && (slot = PyList_New(1)) != NULL) {
        PyList_SET_ITEM(slot, 0, Py_NewRef(timer));
        result = PyDict_SetItem(slots, key, slot);
        Py_DECREF(slot);
    }
    Py_DECREF(key);
    if (result < 0)
        Py_CLEAR(timer);
    return timer;
}

/* The dispatcher. */

static PyObject *
make_request(PyObject *service, PyObject *client_host)
{
    PyObject *selector = IS_A(service, service) ? Py_NewRef(SLOT(service, service, V_SELECTOR))
                                                : PyObject_GetAttr(service, s_selector);
    PyObject *request = selector == NULL ? NULL : make(&request_layout);
    if (request != NULL) {
        static const int none[] = {R_METHOD, R_TARGET, R_PATH, R_SERVER_NAME, R_COMPLETED};
        for (size_t i = 0; i < sizeof none / sizeof *none; i++)
            SLOT(request, request, none[i]) = Py_NewRef(Py_None);
        SLOT(request, request, R_CLIENT) = Py_NewRef(client_host);
        SLOT(request, request, R_LINES) = Py_NewRef(no_bytes);
        SLOT(request, request, R_BODY_PREFIX) = Py_NewRef(no_bytes);
        SLOT(request, request, R_IS_REPEATED) = Py_NewRef(Py_False);
        SLOT(request, request, R_FAILED) = Py_NewRef(no_destinations);
        SLOT(request, request, R_PROTOCOLS) = Py_NewRef(no_objects);
        SLOT(request, request, R_TRIED) =
            IS_A(selector, selector) ? Py_NewRef(SLOT(selector, selector, S_EXCLUDED))
                                     : PyObject_GetAttr(selector, s_excluded);
        if (SLOT(request, request, R_TRIED) == NULL)
            Py_CLEAR(request);
    }
    Py_XDECREF(selector);
    return request;
}

static int
fill_dispatcher(PyObject *self, PyObject *service, PyObject *owner, PyObject *client_host)
{
    PyObject *context = IS_A(service, service) ? Py_NewRef(SLOT(service, service, V_CONTEXT))
                                               : PyObject_GetAttr(service, s_context);
    PyObject *log = context == NULL ? NULL : PyObject_GetAttr(context, s_log);
    PyObject *request = log == NULL ? NULL : make_request(service, client_host);
    if (request != NULL) {
        FILL(self, dispatcher, Py_None, D_PENDING, D_CHOICE, D_COMPLETED, D_LEASE, D_ENTRY);
        FILL(self, dispatcher, Py_False, D_IS_RETRY, D_IS_WAITING);
        put_new(&SLOT(self, dispatcher, D_SERVICE), service);
        put_new(&SLOT(self, dispatcher, D_SETTINGS_OF), context);
        put_new(&SLOT(self, dispatcher, D_LOG), log);
        put_new(&SLOT(self, dispatcher, D_OWNER), owner);
        put_new(&SLOT(self, dispatcher, D_QUEUED_SINCE), zero);
        put_new(&SLOT(self, dispatcher, D_REFUSED), no_destinations);
        put_new(&SLOT(self, dispatcher, D_FAILED), no_objects);
        put_new(&SLOT(self, dispatcher, D_USES_SCHEDULER), Py_True);
        put(&SLOT(self, dispatcher, D_REQUEST), request);
    }
    Py_XDECREF(context);
    Py_XDECREF(log);
    return request == NULL ? -1 : 0;
}

static PyObject *
dispatcher_init(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "Dispatcher() takes 3 arguments");
        return NULL;
    }
    return done(fill_dispatcher(self, args[0], args[1], args[2]));
}

static PyObject *
lease_end(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    int result = count || names ? 0 : end_lease(self);
    if (result == 0) {
        PyObject *bound = PyObject_CallMethodOneArg(plain_end, s_get, self);
        PyObject *made = bound == NULL ? NULL : PyObject_Vectorcall(bound, args, (size_t)count, names);
        Py_XDECREF(bound);
        return made;
    }
    return done(result);
}

/* True where a scheduler wants to know the outcome of a choice, or has read what is measured of the server. */
static int
is_measured(PyObject *self, PyObject *choice)
{
    PyObject *service = SLOT(self, dispatcher, D_SERVICE);
    PyObject *selector = IS_A(service, service) ? SLOT(service, service, V_SELECTOR) : NULL;
    PyObject *destination = SLOT(choice, choice, O_DESTINATION);
    return !IS_A(selector, selector) || SLOT(selector, selector, S_COMPLETED) != Py_None ||
           SLOT(choice, choice, O_COMPLETED) != Py_None || SLOT(destination, destination, T_MEASURED_ERRORS) != Py_None ||
           SLOT(destination, destination, T_MEASURED_LATENCY) != Py_None;
}

static PyObject *
take(PyObject *self, PyObject *choice)
{
    int is_logging = is_logged(SLOT(self, dispatcher, D_LOG), scheduling_level);
    if (is_logging < 0)
        return NULL;
    if (is_logging || IS(self, dispatcher, D_IS_RETRY) || SLOT(self, dispatcher, D_ENTRY) != Py_None ||
        SLOT(self, dispatcher, D_OWNER) == NULL || !IS_A(choice, choice) ||
        !is_destination(SLOT(choice, choice, O_DESTINATION)) || is_measured(self, choice))
        return plainly(plain_take, self, choice);
    put_new(&SLOT(self, dispatcher, D_CHOICE), choice);
    if (put_made(&SLOT(self, dispatcher, D_LEASE), make_lease(SLOT(choice, choice, O_DESTINATION))) < 0)
        return NULL;
    PyObject *owner = Py_NewRef(SLOT(self, dispatcher, D_OWNER));
    PyObject *result = PyObject_CallMethodOneArg(owner, s_serve, choice);
    Py_DECREF(owner);
    return result;
}

static PyObject *
dispatcher_take(PyObject *self, PyObject *choice)
{
    return take(self, choice);
}

static PyObject *
dispatcher_select(PyObject *self, PyObject *unused)
{
    PyObject *service = SLOT(self, dispatcher, D_SERVICE), *request = SLOT(self, dispatcher, D_REQUEST);
    PyObject *selector = IS_A(service, service) ? SLOT(service, service, V_SELECTOR) : NULL;
    PyObject *failed = IS_A(request, request) ? SLOT(request, request, R_FAILED) : NULL;
    (void)unused;
    if (!IS(self, dispatcher, D_USES_SCHEDULER) || !IS_A(selector, selector) || failed == NULL || !PyAnySet_Check(failed) ||
        PySet_GET_SIZE(failed) > 0)
        return plainly(plain_select, self, NULL);
    PyObject *scheduler = Py_NewRef(SLOT(selector, selector, S_SCHEDULER));
    Py_INCREF(self);
    Py_INCREF(request);
    Py_INCREF(selector);
    PyObject *choice = PyObject_CallMethodOneArg(scheduler, s_choose, request), *result;
    Py_DECREF(scheduler);
    if (choice == NULL)
        result = handle_any(self, s_choice_failed, NULL) < 0 ? NULL : Py_NewRef(Py_None);
    else {
        int is_usual = IS_A(choice, choice) && is_proper(choice);
        if (is_usual) {
            PyObject *destination = SLOT(choice, choice, O_DESTINATION);
            PyObject *usable = SLOT(selector, selector, S_USABLE), *tried = Py_XNewRef(SLOT(request, request, R_TRIED));
            is_usual = SLOT(destination, destination, T_MAXCONN) == zero &&
                       SLOT(self, dispatcher, D_QUEUED_SINCE) == zero && PyAnySet_Check(usable) && tried != NULL &&
                       PyAnySet_Check(tried) && PySet_Contains(usable, destination) == 1 &&
                       (PySet_GET_SIZE(tried) == 0 || PySet_Contains(tried, destination) == 0);
            PyErr_Clear();
            Py_XDECREF(tried);
        }
        result = is_usual ? take(self, choice) : PyObject_CallMethodOneArg(self, s_handle_answer, choice);
        Py_DECREF(choice);
    }
    Py_DECREF(selector);
    Py_DECREF(request);
    Py_DECREF(self);
    return result;
}

/* The client connection. */

static PyObject *
connection_init(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "ClientConnection() takes 4 arguments");
        return NULL;
    }
    PyObject *service = args[0];
    PyObject *context = IS_A(service, service) ? Py_NewRef(SLOT(service, service, V_CONTEXT))
                                               : PyObject_GetAttr(service, s_context);
    if (context == NULL)
        return NULL;
    FILL(self, connection, Py_None, C_TIMER, C_HANDOVER, C_LIMITS, C_RELAY);
    put_new(&SLOT(self, connection, C_SERVICE), service);
    put_new(&SLOT(self, connection, C_CLIENT_NAME), args[1]);
    put_new(&SLOT(self, connection, C_STATE), args[3]);
    put_new(&SLOT(self, connection, C_ENDING), no_text);
    put_new(&SLOT(self, connection, C_IS_OVER), Py_False);
    put_new(&SLOT(self, connection, C_ON_END), on_end_of_none);
    put(&SLOT(self, connection, C_CONTEXT), context);
    if (put_now(&SLOT(self, connection, C_BEGAN), context) < 0)
        return NULL;
    put_new(&SLOT(self, connection, C_LAST_ACTIVITY), SLOT(self, connection, C_BEGAN));
    PyObject *opened = PyObject_GetAttr(self, s_opened);
    if (opened == NULL)
        return NULL;
    int result = put_made(&SLOT(self, connection, C_CLIENT), PyObject_CallOneArg((PyObject *)stream_layout.type, opened));
    Py_DECREF(opened);
    PyObject *dispatcher = result < 0 ? NULL : make(&dispatcher_layout);
    if (dispatcher == NULL)
        return NULL;
    put(&SLOT(self, connection, C_DISPATCHER), dispatcher);
    return done(fill_dispatcher(dispatcher, service, self, args[2]));
}

static PyObject *
connection_transition(PyObject *self, PyObject *event)
{
    PyObject *context = SLOT(self, connection, C_CONTEXT), *dispatcher = SLOT(self, connection, C_DISPATCHER);
    PyObject *log = PyObject_GetAttr(context, s_log);
    int is_unusual = log == NULL ? -1 : is_logged(log, state_level);
    Py_XDECREF(log);
    if (is_unusual < 0)
        return NULL;
    if (is_unusual || !IS_A(dispatcher, dispatcher) || IS(dispatcher, dispatcher, D_IS_WAITING))
        return plainly(plain_transition, self, event);
    PyObject *table = PyObject_GetAttr(self, s_table);
    if (table == NULL)
        return NULL;
    PyObject *events = PyDict_Check(table) ? PyDict_GetItemWithError(table, SLOT(self, connection, C_STATE)) : NULL;
    PyObject *after = events != NULL && PyDict_Check(events) ? PyDict_GetItemWithError(events, event) : NULL;
    Py_DECREF(table); /* it is an attribute of the class, which keeps it and what is in it */
    if (after == NULL) {
        if (!PyErr_Occurred())
            PyErr_SetObject(PyExc_KeyError, event);
        return NULL;
    }
    put_new(&SLOT(self, connection, C_STATE), after);
    if (put_now(&SLOT(self, connection, C_LAST_ACTIVITY), context) < 0)
        return NULL;
    if (!PyUnicode_Check(after) || PyUnicode_Compare(after, closed_state) != 0)
        return Py_NewRef(Py_None);
    PyObject *ending = SLOT(self, connection, C_ENDING), *handover = SLOT(self, connection, C_HANDOVER);
    if (PyUnicode_Check(ending) && PyUnicode_GET_LENGTH(ending) == 0)
        put_new(&SLOT(self, connection, C_ENDING), event);
    if (handover == Py_None)
        return Py_NewRef(Py_None);
    SLOT(self, connection, C_HANDOVER) = Py_NewRef(Py_None);
    int result = call(handover, s_cancel, NULL);
    Py_DECREF(handover);
    return done(result);
}

static PyObject *
connection_set_timer(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    PyObject *due = count > 1 ? args[1] : Py_None, *timer = SLOT(self, connection, C_TIMER);
    if (count < 1 || count > 2) {
        PyErr_SetString(PyExc_TypeError, "set_timer() takes 1 or 2 arguments");
        return NULL;
    }
    if (IS_A(timer, timer))
        put_new(&SLOT(timer, timer, I_CALL), Py_None);
    else if (timer != Py_None && call(timer, s_cancel, NULL) < 0)
        return NULL;
    if (due == Py_None) {
        put_new(&SLOT(self, connection, C_TIMER), Py_None);
        return Py_NewRef(Py_None);
    }
    PyObject *wheel = PyObject_GetAttr(SLOT(self, connection, C_CONTEXT), s_wheel);
    if (wheel == NULL)
        return NULL;
    int result = put_made(&SLOT(self, connection, C_TIMER), set_off(wheel, args[0], due));
    Py_DECREF(wheel);
    return done(result);
}

/* 1 if the stream's transport tells of large reads; -1 with an exception. */
static int
reports_bulk(PyObject *stream)
{
    if (!PyObject_TypeCheck(stream, stream_layout.type))
        return 0;
    if (!IS(stream, stream, W_IS_OPEN))
        return 0;
    PyObject *reports = PyObject_GetAttr(SLOT(stream, stream, W_TRANSPORT), s_reports_bulk);
    Py_XDECREF(reports); /* True and False are never freed */
    return reports == NULL ? -1 : reports == Py_True;
}

static PyObject *
connection_join(PyObject *self, PyObject *relay)
{
    PyObject *service = SLOT(self, connection, C_SERVICE), *state = SLOT(self, connection, C_STATE);
    PyObject *choice = IS_A(service, service) ? SLOT(service, service, V_RELAY) : NULL;
    if (!IS_A(choice, relay_choice) || !IS_A(relay, relay))
        return plainly(plain_join, self, relay);
    PyObject *engine = SLOT(choice, relay_choice, X_ENGINE), *joined = SLOT(choice, relay_choice, X_JOINED);
    int is_copied = engine == copy_relay || state == closed_state;
    if (!is_copied) {
        PyObject *client = SLOT(SLOT(relay, relay, Y_INWARD), direction, N_SOURCE);
        PyObject *server = SLOT(SLOT(relay, relay, Y_OUTWARD), direction, N_SOURCE);
        int reports = IS(choice, relay_choice, X_WAITS_FOR_BULK) ? reports_bulk(client) : 0;
        if (reports > 0)
            reports = reports_bulk(server);
        if (reports < 0)
            return NULL;
        if (reports == 0)
            return plainly(plain_join, self, relay);
        PyObject *detected = PyObject_GetAttr(self, s_bulk_detected);
        if (detected == NULL)
            return NULL;
        put_new(&SLOT(client, stream, W_BULK_DETECTED), detected);
        put(&SLOT(server, stream, W_BULK_DETECTED), detected);
    }
    PyObject *count = PyDict_GetItemWithError(joined, copy_relay);
    PyObject *more = count == NULL ? NULL : PyNumber_Add(count, one);
    int result = more == NULL ? -1 : PyDict_SetItem(joined, copy_relay, more);
    Py_XDECREF(more);
    if (result < 0 && !PyErr_Occurred())
        PyErr_SetObject(PyExc_KeyError, copy_relay);
    return done(result);
}

static PyObject *
connection_end(PyObject *self, PyObject *unused)
{
    (void)unused;
    SET(self, connection, C_IS_OVER, 1);
    PyObject *on_end = Py_NewRef(SLOT(self, connection, C_ON_END));
    PyObject *result = PyObject_CallOneArg(on_end, self);
    Py_DECREF(on_end);
    if (result == NULL)
        return NULL;
    Py_DECREF(result);
    put_new(&SLOT(self, connection, C_ON_END), on_end_of_none);
    PyObject *dispatcher = SLOT(self, connection, C_DISPATCHER);
    if (!IS_A(dispatcher, dispatcher))
        return done(call(dispatcher, s_detach, NULL));
    Py_CLEAR(SLOT(dispatcher, dispatcher, D_OWNER));
    return Py_NewRef(Py_None);
}

/* The copying relay. */

static PyObject *
make_direction(PyObject *source, PyObject *target, PyObject *wheel)
{
    PyObject *self = make(&direction_layout);
    if (self == NULL)
        return NULL;
    SLOT(self, direction, N_SOURCE) = Py_NewRef(source);
    SLOT(self, direction, N_TARGET) = Py_NewRef(target);
    SLOT(self, direction, N_WHEEL) = Py_NewRef(wheel);
    SLOT(self, direction, N_BYTES) = Py_NewRef(zero);
    SLOT(self, direction, N_ENDED) = Py_NewRef(Py_False);
    if (put_made(&SLOT(self, direction, N_LAST_DATA), PyObject_GetAttr(wheel, s_now)) < 0 ||
        put_made(&SLOT(self, direction, N_WRITE), PyObject_GetAttr(target, s_write)) < 0)
        Py_CLEAR(self);
    return self;
}

static PyObject *
relay_init(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "CopyRelay() takes 4 arguments");
        return NULL;
    }
    if (put_made(&SLOT(self, relay, Y_INWARD), make_direction(args[0], args[1], args[2])) < 0 ||
        put_made(&SLOT(self, relay, Y_OUTWARD), make_direction(args[1], args[0], args[2])) < 0)
        return NULL;
    put_new(&SLOT(self, relay, Y_FINISHED), args[3]);
    return done(call(args[1], s_keep_urgent, NULL));
}

static PyObject *
direction_received(PyObject *self, PyObject *data)
{
    PyObject *bytes = SLOT(self, direction, N_BYTES);
    Py_ssize_t length = PyBytes_CheckExact(data) ? PyBytes_GET_SIZE(data) : PyObject_Size(data);
    long long before = PyLong_AsLongLong(bytes);
    if (length < 0 || PyErr_Occurred() || put_made(&SLOT(self, direction, N_BYTES), PyLong_FromLongLong(before + length)) < 0 ||
        put_made(&SLOT(self, direction, N_LAST_DATA), PyObject_GetAttr(SLOT(self, direction, N_WHEEL), s_now)) < 0)
        return NULL;
    PyObject *write = Py_NewRef(SLOT(self, direction, N_WRITE));
    PyObject *result = PyObject_CallOneArg(write, data);
    Py_DECREF(write);
    Py_XDECREF(result);
    return done(result == NULL ? -1 : 0);
}

static int
start_direction(PyObject *self)
{
    PyObject *target = SLOT(self, direction, N_TARGET), *source = SLOT(self, direction, N_SOURCE);
    if (call(target, s_set_backpressure, self) < 0)
        return -1;
    PyObject *received = PyObject_GetAttr(self, s_received);
    int result = received == NULL ? -1 : PyObject_SetAttr(source, s_data_received, received);
    Py_XDECREF(received);
    return result;
}

static int
set_ended(PyObject *self, PyObject *direction, PyObject *name)
{
    PyObject *ended = PyObject_GetAttr(self, name);
    int result = ended == NULL ? -1 : PyObject_SetAttr(SLOT(direction, direction, N_SOURCE), s_ended, ended);
    Py_XDECREF(ended);
    return result;
}

static PyObject *
relay_start(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    PyObject *inward = SLOT(self, relay, Y_INWARD), *outward = SLOT(self, relay, Y_OUTWARD);
    if (start_direction(inward) < 0 || start_direction(outward) < 0 || set_ended(self, inward, s_inward_ended) < 0 ||
        set_ended(self, outward, s_outward_ended) < 0)
        return NULL;
    if (count == 0 || (PyBytes_CheckExact(args[0]) && PyBytes_GET_SIZE(args[0]) == 0))
        return Py_NewRef(Py_None);
    return PyObject_CallMethodOneArg(inward, s_received, args[0]);
}

static PyObject *
relay_ended(PyObject *self, int which)
{
    PyObject *direction = SLOT(self, relay, which);
    SET(direction, direction, N_ENDED, 1);
    PyObject *target = Py_NewRef(SLOT(direction, direction, N_TARGET));
    int result = call(target, s_half_close, NULL);
    Py_DECREF(target);
    if (result < 0)
        return NULL;
    if (IS(SLOT(self, relay, Y_INWARD), direction, N_ENDED) && IS(SLOT(self, relay, Y_OUTWARD), direction, N_ENDED)) {
        PyObject *finished = Py_NewRef(SLOT(self, relay, Y_FINISHED));
        PyObject *made = PyObject_CallNoArgs(finished);
        Py_DECREF(finished);
        Py_XDECREF(made);
        result = made == NULL ? -1 : 0;
    }
    return done(result);
}

static PyObject *
relay_inward_ended(PyObject *self, PyObject *unused)
{
    (void)unused;
    return relay_ended(self, Y_INWARD);
}

static PyObject *
relay_outward_ended(PyObject *self, PyObject *unused)
{
    (void)unused;
    return relay_ended(self, Y_OUTWARD);
}

/* Set-up. */

static PyMethodDef connection_methods[] = {
    {"__init__", METHOD(connection_init), METH_FASTCALL, NULL},
    {"transition", connection_transition, METH_O, NULL},
    {"set_timer", METHOD(connection_set_timer), METH_FASTCALL, NULL},
    {"join", connection_join, METH_O, NULL},
    {"end", connection_end, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef dispatcher_methods[] = {
    {"__init__", METHOD(dispatcher_init), METH_FASTCALL, NULL},
    {"select", dispatcher_select, METH_NOARGS, NULL},
    {"take", dispatcher_take, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef lease_methods[] = {
    {"end", METHOD(lease_end), METH_FASTCALL | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef relay_methods[] = {
    {"__init__", METHOD(relay_init), METH_FASTCALL, NULL},
    {"start", METHOD(relay_start), METH_FASTCALL, NULL},
    {"_inward_ended", relay_inward_ended, METH_NOARGS, NULL},
    {"_outward_ended", relay_outward_ended, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef direction_methods[] = {
    {"received", direction_received, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

/* configure(classes, values): see dispatch/compiled.py. */
static PyObject *
configure(PyObject *module, PyObject *args)
{
    static const Class all[] = {
        CLASS(connection), CLASS(dispatcher), CLASS(request), CLASS(service), CLASS(selector), CLASS(choice),
        CLASS(lease), CLASS(destination), CLASS(timer), CLASS(wheel), CLASS(relay), CLASS(relay_choice),
        CLASS(direction), CLASS(stream), {NULL, NULL, NULL},
    };
    static const Variable values[] = {
        {&no_destinations, "none"}, {&on_end_of_none, "nothing_to_end"}, {&closed_state, "closed"},
        {&copy_relay, "copy"}, {NULL, NULL},
    };
    static const Variable of_connections[] = {
        {&plain_transition, "transition"}, {&plain_join, "join"}, {NULL, NULL},
    };
    static const Variable of_dispatchers[] = {
        {&plain_select, "select"}, {&plain_take, "take"}, {NULL, NULL},
    };
    static const Variable of_leases[] = {
        {&plain_end, "end"}, {NULL, NULL},
    };
    PyObject *classes, *given;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!", &PyDict_Type, &classes, &PyDict_Type, &given) || learn_all(classes, all) < 0 ||
        take_class(classes, "shared_destination", &shared_destination_type) < 0 || take_values(given, values) < 0 ||
        take_number(given, "state_level", &state_level) < 0 ||
        take_number(given, "scheduling_level", &scheduling_level) < 0 ||
        take_methods(connection_layout.type, of_connections) < 0 ||
        take_methods(dispatcher_layout.type, of_dispatchers) < 0 || take_methods(lease_layout.type, of_leases) < 0)
        return NULL;
    return Py_BuildValue("NNNNN", methods_for(connection_layout.type, connection_methods),
                         methods_for(dispatcher_layout.type, dispatcher_methods),
                         methods_for(lease_layout.type, lease_methods),
                         methods_for(relay_layout.type, relay_methods),
                         methods_for(direction_layout.type, direction_methods));
}

static PyMethodDef module_functions[] = {
    {"configure", configure, METH_VARARGS, "configure(classes, values): return their compiled methods by name"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_connection", "The life of client connections, compiled.", -1, module_functions, NULL, NULL,
    NULL, NULL,
};

PyMODINIT_FUNC
PyInit__connection(void)
{
    static const Variable names[] = {
        {&s_after, "after"}, {&s_bulk_detected, "_bulk_detected"}, {&s_cancel, "cancel"}, {&s_detach, "detach"},
        {&s_reports_bulk, "reports_bulk"}, {&s_choice_failed, "_choice_failed"}, {&s_choose, "choose"},
        {&s_context, "context"}, {&s_data_received, "dataReceived"}, {&s_excluded, "excluded"}, {&s_ended, "ended"},
        {&s_get, "__get__"}, {&s_half_close, "half_close"}, {&s_handle_answer, "handle_answer"},
        {&s_inward_ended, "_inward_ended"}, {&s_keep_urgent, "keep_urgent_data_in_place"}, {&s_level, "level"},
        {&s_log, "log"}, {&s_now, "now"}, {&s_opened, "_opened"}, {&s_outward_ended, "_outward_ended"},
        {&s_received, "received"}, {&s_selector, "selector"}, {&s_serve, "serve"},
        {&s_set_backpressure, "set_backpressure"}, {&s_table, "table"}, {&s_wheel, "wheel"},
        {&s_write, "write"}, {NULL, NULL},
    };
    if (make_names(names) < 0)
        return NULL;
    no_bytes = PyBytes_FromString("");
    no_text = PyUnicode_FromString("");
    no_objects = PyTuple_New(0);
    zero = PyLong_FromLong(0);
    one = PyLong_FromLong(1);
    return no_bytes && no_text && no_objects && zero && one ? PyModule_Create(&definition) : NULL;
}
