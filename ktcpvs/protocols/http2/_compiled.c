/* HTTP/2, compiled: HPACK (_huffman.h, _hpack.h), messages (_messages.h), and the ordinary frames of a connection.
 *
 * `read_frames` does what the handlers of connection.py, server.py and client.py do, as far as all goes as it usually
 * does: requests, responses and trailers in one frame each, DATA without padding, windows that open. It stops in front
 * of anything else, before that has changed anything, and Python goes on. `respond` and `request` send whole messages in
 * the same way. All of them work on Python's own objects, with __slots__, whose attributes they read and write at the
 * slots' offsets; what is to be done, and why, stands in these files. They do nothing without compiled encoders and
 * decoders, which tests use. */

#include "_messages.h"

enum { DATA = 0, HEADERS = 1, WINDOW_UPDATE = 8, END_STREAM = 1, END_HEADERS = 4, PADDED = 8, HAS_PRIORITY = 0x20,
       FRAME_HEADER = 9, WINDOW_UPDATES = 5, WINDOW_UPDATES_BONUS = 2, MAX_EVENTS_BETWEEN = 256 };

#define MAX_WINDOW 0x7FFFFFFFLL

enum { C_ENCODER, C_EVENTS, C_FIELD_BLOCK, C_GUARD, C_LIMITS, C_NOW, C_OUT, C_FLOW_CONTROL, C_SETTINGS, C_STREAMS };
FIELDS(connection, "_encoder", "_events", "_field_block", "_guard", "_limits", "_now", "_out", "flow_control", "settings",
       "streams");

enum { B_DECODER, B_STREAM };
FIELDS(field_block, "_decoder", "stream_id");

enum { F_CREDIT, F_IS_BLOCKED, F_RECEIVE_WINDOW, F_SEND_WINDOW, F_STREAM_WINDOW };
FIELDS(flow_control, "_credit", "is_blocked", "receive_window", "send_window", "stream_window");

enum { V_LAST_STREAM, V_GOAWAY, V_JOINS };
FIELDS(server, "last_stream_id", "_goaway_id", "_joins_requests");

enum { N_NEXT };
FIELDS(client, "_next_id");

enum { M_CREDIT, M_HAS_ENDED, M_HAS_RESPONSE, M_HELD, M_IS_BLOCKED, M_IS_ENDED, M_LENGTH, M_METHOD, M_RECEIVE_WINDOW,
       M_RECEIVED, M_SEND_WINDOW, M_STREAM_ID };
FIELDS(stream, "credit", "has_ended", "has_response", "held", "is_blocked", "is_ended", "length", "method",
       "receive_window", "received", "send_window", "stream_id");

enum { L_STREAMS, L_BLOCK_SIZE, L_CRUMBS, L_FRAME_SIZE, L_CONNECTION_WINDOW, L_INTERVAL };
FIELDS(limits, "max_concurrent_streams", "max_block_size", "max_crumbs", "max_frame_size", "connection_window", "interval");

enum { P_INITIAL_WINDOW, P_FRAME_SIZE };
FIELDS(settings, "initial_window", "max_frame_size");

enum { G_USEFUL, G_BEGAN, G_COUNTS };
FIELDS(guard, "useful", "_began", "_counts");

enum { RR_STREAM, RR_REQUEST, RR_END, RR_SENSITIVE, RR_HEAD };
FIELDS(request_received, "stream_id", "request", "end_stream", "sensitive", "head");

enum { RP_STREAM, RP_RESPONSE, RP_END, RP_METHOD };
FIELDS(response_received, "stream_id", "response", "end_stream", "method");

enum { DR_STREAM, DR_DATA, DR_END };
FIELDS(data_received, "stream_id", "data", "end_stream");

enum { TR_STREAM, TR_LINES };
FIELDS(trailers_received, "stream_id", "lines");

enum { WR_STREAM, WR_DATA };
FIELDS(whole_response, "stream_id", "data");

enum { SR_STREAM };
FIELDS(stream_reset, "stream_id");

static int is_configured;
static PyObject *zero, *s_section_received, *s_give_back;

/* What a step of the fast path has come to. */
enum { FAILED = -1, UNUSUAL_STEP = 0, DONE = 1 };

static inline long long
number(PyObject *slot)
{
    return PyLong_AsLongLong(slot);
}

static inline int
put_number(PyObject **slot, long long value)
{
    return put_made(slot, PyLong_FromLongLong(value));
}

static inline int
bytes_are(PyObject *bytes, const char *text)
{
    return is_text((Text)PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes), text);
}

/* The connection's FieldBlock and FlowControl; borrowed. */
static inline PyObject *
field_block_of(PyObject *connection)
{
    return SLOT(connection, connection, C_FIELD_BLOCK);
}

static inline PyObject *
flow_control_of(PyObject *connection)
{
    return SLOT(connection, connection, C_FLOW_CONTROL);
}

/* Adds an event, whose reference it takes. */
static int
append_event(PyObject *connection, PyObject *event)
{
    int failed = event == NULL || PyList_Append(SLOT(connection, connection, C_EVENTS), event) < 0;

    Py_XDECREF(event);
    return failed ? FAILED : DONE;
}

static int
is_connection(PyObject *object)
{
    return is_configured && (IS_A(object, server) || IS_A(object, client)) &&
           Py_IS_TYPE(SLOT(field_block_of(object), field_block, B_DECODER), &decoder_type) &&
           Py_IS_TYPE(SLOT(object, connection, C_ENCODER), &encoder_type);
}

static PyObject *
new_stream(PyObject *connection, PyObject *stream_id, PyObject *method)
{
    PyObject *stream = stream_layout.type->tp_alloc(stream_layout.type, 0);

    if (stream == NULL)
        return NULL;
    SLOT(stream, stream, M_STREAM_ID) = Py_NewRef(stream_id);
    SLOT(stream, stream, M_SEND_WINDOW) = Py_NewRef(SLOT(SLOT(connection, connection, C_SETTINGS), settings, P_INITIAL_WINDOW));
    SLOT(stream, stream, M_RECEIVE_WINDOW) = Py_NewRef(SLOT(flow_control_of(connection), flow_control, F_STREAM_WINDOW));
    SLOT(stream, stream, M_HAS_ENDED) = Py_NewRef(Py_False);
    SLOT(stream, stream, M_IS_ENDED) = Py_NewRef(Py_False);
    SLOT(stream, stream, M_IS_BLOCKED) = Py_NewRef(Py_False);
    SLOT(stream, stream, M_HAS_RESPONSE) = Py_NewRef(Py_False);
    SLOT(stream, stream, M_CREDIT) = Py_NewRef(zero);
    SLOT(stream, stream, M_HELD) = Py_NewRef(zero);
    SLOT(stream, stream, M_RECEIVED) = Py_NewRef(zero);
    SLOT(stream, stream, M_LENGTH) = Py_NewRef(Py_None);
    SLOT(stream, stream, M_METHOD) = Py_NewRef(method);
    return stream;
}

/* FlowControl.give_back, whose frames go into the output. */
static int
give_back(PyObject *connection, PyObject *size)
{
    PyObject *windows = flow_control_of(connection), *out = SLOT(connection, connection, C_OUT), *updates;
    long long credit = number(SLOT(windows, flow_control, F_CREDIT)) + number(size);
    long long window = number(SLOT(SLOT(connection, connection, C_LIMITS), limits, L_CONNECTION_WINDOW));
    int failed;

    if (PyErr_Occurred())
        return -1;
    if (credit < window >> 1)
        return put_number(&SLOT(windows, flow_control, F_CREDIT), credit);
    updates = PyObject_CallMethodOneArg(windows, s_give_back, size);
    failed = updates == NULL || PyList_SetSlice(out, PyList_GET_SIZE(out), PyList_GET_SIZE(out), updates) < 0;
    Py_XDECREF(updates);
    return failed ? -1 : 0;
}

/* Connection._remove, for a stream that has ended on both sides. */
static int
remove_stream(PyObject *connection, PyObject *stream)
{
    PyObject *held = Py_NewRef(SLOT(stream, stream, M_HELD));
    int failed = PyDict_DelItem(SLOT(connection, connection, C_STREAMS), SLOT(stream, stream, M_STREAM_ID)) < 0;

    if (!failed && held != zero)
        failed = give_back(connection, held) < 0;
    Py_DECREF(held);
    return failed ? FAILED : DONE;
}

static int
peer_ended(PyObject *connection, PyObject *stream)
{
    SET(stream, stream, M_HAS_ENDED, 1);
    return IS(stream, stream, M_IS_ENDED) ? remove_stream(connection, stream) : DONE;
}

static int
we_ended(PyObject *connection, PyObject *stream)
{
    SET(stream, stream, M_IS_ENDED, 1);
    return IS(stream, stream, M_HAS_ENDED) ? remove_stream(connection, stream) : DONE;
}

static int
add_useful(PyObject *connection, int count)
{
    PyObject **useful = &SLOT(SLOT(connection, connection, C_GUARD), guard, G_USEFUL);

    return put_number(useful, number(*useful) + count);
}

/* FloodGuard.count, where that only counts. Returns UNUSUAL_STEP, having counted nothing, where it does more. */
static int
count(PyObject *connection, Py_ssize_t kind, long long bonus)
{
    PyObject *guard = SLOT(connection, connection, C_GUARD), *counts = SLOT(guard, guard, G_COUNTS), *counted;
    long long now, began, interval, useful, more;

    if (!PyList_CheckExact(counts) || kind >= PyList_GET_SIZE(counts))
        return UNUSUAL_STEP;
    now = number(SLOT(connection, connection, C_NOW));
    began = number(SLOT(guard, guard, G_BEGAN));
    interval = number(SLOT(SLOT(connection, connection, C_LIMITS), limits, L_INTERVAL));
    useful = number(SLOT(guard, guard, G_USEFUL));
    more = number(PyList_GET_ITEM(counts, kind)) + 1;
    if (PyErr_Occurred())
        return FAILED;
    if (now - began >= interval || more > bonus * useful)
        return UNUSUAL_STEP;
    counted = PyLong_FromLongLong(more);
    return counted == NULL || PyList_SetItem(counts, kind, counted) < 0 ? FAILED : DONE;
}

/* Has Python handle a section that is decoded already. */
static int
pass_section(PyObject *connection, PyObject *stream_id, PyObject *section, int end_stream)
{
    PyObject *result = PyObject_CallMethodObjArgs(connection, s_section_received, stream_id, section,
                                                  end_stream ? Py_True : Py_False, NULL);
    Py_XDECREF(result);
    return result == NULL ? FAILED : DONE;
}

/* Receiving. */

/* Response.has_body, for a final response. */
static int
has_body(PyObject *response, PyObject *method)
{
    long status = PyLong_AsLong(SLOT(response, response, S_STATUS));

    return status != 204 && status != 304 && !bytes_are(method, "HEAD");
}

/* True if a response without DATA would not be as long as it says. */
static int
is_cut_off(PyObject *response, PyObject *method)
{
    PyObject *length = SLOT(response, response, S_LENGTH);

    return length != Py_None && number(length) != 0 && has_body(response, method);
}

/* What a block means. head: of a Request, NULL for anything else. */
typedef struct {
    PyObject *meaning, *head, *sensitive;
} Section;

static void
close_section(Section *section)
{
    Py_XDECREF(section->meaning);
    Py_XDECREF(section->head);
    Py_XDECREF(section->sensitive);
}

typedef enum { REQUEST, RESPONSE, TRAILERS } Role;

/* Decodes a block. The meaning is a FieldSection if it is unusual. method: of the request, for a response. */
static int
read_section(PyObject *connection, Role role, PyObject *method, Text block, Py_ssize_t length, int end_stream,
             Section *section)
{
    Decoder *decoder = (Decoder *)SLOT(field_block_of(connection), field_block, B_DECODER);
    PyTypeObject *type = role == REQUEST ? request_layout.type : role == RESPONSE ? response_layout.type : &PyBytes_Type;
    Known *known = find_known(decoder, block, length, type, end_stream);
    List list;
    int made = -1;

    memset(section, 0, sizeof(*section));
    if (known != NULL && role == RESPONSE && end_stream && is_cut_off(known->meaning, method))
        known = NULL;
    if (known == NULL)
        known = find_known(decoder, block, length, (PyTypeObject *)section_type, 0);
    if (known != NULL) {
        section->meaning = Py_NewRef(known->meaning);
        section->head = Py_XNewRef(known->head);
        section->sensitive = Py_NewRef(known->sensitive);
        return 0;
    }
    open_list(&list);
    if (decode_block(decoder, block, length, &list) < 0)
        forget(decoder); /* the table may have changed before the error */
    else {
        if (list.has_changed_table)
            forget(decoder);
        section->sensitive = sensitive_names(&list);
        if (section->sensitive != NULL) {
            if (role == REQUEST) {
                long long most = number(SLOT(SLOT(connection, connection, C_LIMITS), limits, L_CRUMBS));
                made = make_request(&list, most, end_stream, &section->meaning, &section->head);
            }
            else if (role == RESPONSE) {
                made = make_response(&list, &section->meaning);
                if (made == 1 && end_stream && is_cut_off(section->meaning, method)) {
                    Py_CLEAR(section->meaning);
                    made = 0;
                }
            }
            else
                made = make_trailers(&list, &section->meaning);
            if (made == 0)
                section->meaning = section_of(&list, section->sensitive);
            if (section->meaning != NULL)
                remember(decoder, block, length, &list, section->meaning, section->head, section->sensitive,
                         made ? end_stream : 0);
        }
    }
    close_list(&list);
    if (section->meaning == NULL) {
        close_section(section);
        return -1;
    }
    return 0;
}

static int
begin_request(PyObject *connection, PyObject *stream_id, int end_stream, const Section *section)
{
    PyObject *stream, *event;
    int failed;

    put_new(&SLOT(connection, server, V_LAST_STREAM), stream_id);
    if (add_useful(connection, 1) < 0)
        return FAILED;
    stream = new_stream(connection, stream_id, no_bytes);
    if (stream == NULL)
        return FAILED;
    put_new(&SLOT(stream, stream, M_LENGTH), SLOT(section->meaning, request, Q_LENGTH));
    SET(stream, stream, M_HAS_ENDED, end_stream);
    failed = PyDict_SetItem(SLOT(connection, connection, C_STREAMS), stream_id, stream) < 0;
    Py_DECREF(stream);
    event = failed ? NULL : request_received_layout.type->tp_alloc(request_received_layout.type, 0);
    if (event == NULL)
        return FAILED;
    SLOT(event, request_received, RR_STREAM) = Py_NewRef(stream_id);
    SLOT(event, request_received, RR_REQUEST) = Py_NewRef(section->meaning);
    SLOT(event, request_received, RR_END) = Py_NewRef(end_stream ? Py_True : Py_False);
    SLOT(event, request_received, RR_SENSITIVE) = Py_NewRef(section->sensitive);
    SLOT(event, request_received, RR_HEAD) = Py_NewRef(section->head);
    return append_event(connection, event);
}

static int
on_request(PyObject *connection, uint32_t stream_number, int end_stream, Text block, Py_ssize_t length)
{
    long long last = number(SLOT(connection, server, V_LAST_STREAM));
    long long most = number(SLOT(SLOT(connection, connection, C_LIMITS), limits, L_STREAMS));
    PyObject *stream_id;
    Section section;
    int result;

    if (PyErr_Occurred())
        return FAILED;
    if (!(stream_number & 1) || stream_number <= last || stream_number > last + 2 ||
        SLOT(connection, server, V_GOAWAY) != Py_None || PyDict_GET_SIZE(SLOT(connection, connection, C_STREAMS)) >= most)
        return UNUSUAL_STEP;
    if (read_section(connection, REQUEST, NULL, block, length, end_stream, &section) < 0)
        return FAILED;
    stream_id = PyLong_FromUnsignedLong(stream_number);
    if (stream_id == NULL)
        result = FAILED;
    else if (Py_IS_TYPE(section.meaning, request_layout.type))
        result = begin_request(connection, stream_id, end_stream, &section);
    else
        result = pass_section(connection, stream_id, section.meaning, end_stream);
    Py_XDECREF(stream_id);
    close_section(&section);
    return result;
}

static int
begin_response(PyObject *connection, PyObject *stream, int end_stream, const Section *section)
{
    PyObject *response = section->meaning, *event;
    PyObject *method = SLOT(stream, stream, M_METHOD), *stream_id = SLOT(stream, stream, M_STREAM_ID);
    PyObject *length = has_body(response, method) ? SLOT(response, response, S_LENGTH) : zero;

    SET(stream, stream, M_HAS_RESPONSE, 1);
    put_new(&SLOT(stream, stream, M_LENGTH), length);
    event = response_received_layout.type->tp_alloc(response_received_layout.type, 0);
    if (event == NULL)
        return FAILED;
    SLOT(event, response_received, RP_STREAM) = Py_NewRef(stream_id);
    SLOT(event, response_received, RP_RESPONSE) = Py_NewRef(response);
    SLOT(event, response_received, RP_END) = Py_NewRef(end_stream ? Py_True : Py_False);
    SLOT(event, response_received, RP_METHOD) = Py_NewRef(method);
    if (append_event(connection, event) < 0)
        return FAILED;
    return end_stream ? peer_ended(connection, stream) : DONE;
}

static int
end_with_trailers(PyObject *connection, PyObject *stream, const Section *section)
{
    PyObject *event = trailers_received_layout.type->tp_alloc(trailers_received_layout.type, 0);

    if (event == NULL)
        return FAILED;
    SLOT(event, trailers_received, TR_STREAM) = Py_NewRef(SLOT(stream, stream, M_STREAM_ID));
    SLOT(event, trailers_received, TR_LINES) = Py_NewRef(section->meaning);
    return append_event(connection, event) < 0 ? FAILED : peer_ended(connection, stream);
}

static int
on_response(PyObject *connection, PyObject *stream, int end_stream, Text block, Py_ssize_t length)
{
    PyObject *expected = SLOT(stream, stream, M_LENGTH);
    int is_trailers = IS(stream, stream, M_HAS_RESPONSE), result;
    Section section;

    if (IS(stream, stream, M_HAS_ENDED) || bytes_are(SLOT(stream, stream, M_METHOD), "CONNECT") || (is_trailers && !end_stream))
        return UNUSUAL_STEP;
    if (is_trailers && expected != Py_None && number(expected) != number(SLOT(stream, stream, M_RECEIVED)))
        return UNUSUAL_STEP;
    if (read_section(connection, is_trailers ? TRAILERS : RESPONSE, SLOT(stream, stream, M_METHOD), block, length, end_stream,
                     &section) < 0)
        return FAILED;
    if (Py_IS_TYPE(section.meaning, response_layout.type))
        result = begin_response(connection, stream, end_stream, &section);
    else if (PyBytes_CheckExact(section.meaning))
        result = end_with_trailers(connection, stream, &section);
    else
        result = pass_section(connection, SLOT(stream, stream, M_STREAM_ID), section.meaning, end_stream);
    close_section(&section);
    return result;
}

static inline uint32_t
word_at(Text at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* The stream of a frame; borrowed. NULL if it is not open, or with an exception. */
static PyObject *
find_stream(PyObject *connection, uint32_t stream_number)
{
    PyObject *stream, *stream_id = PyLong_FromUnsignedLong(stream_number);

    if (stream_id == NULL)
        return NULL;
    stream = PyDict_GetItemWithError(SLOT(connection, connection, C_STREAMS), stream_id);
    Py_DECREF(stream_id);
    return stream;
}

static int
on_headers(PyObject *connection, uint32_t stream_number, int flags, Text block, Py_ssize_t length)
{
    long long most = number(SLOT(SLOT(connection, connection, C_LIMITS), limits, L_BLOCK_SIZE));
    PyObject *stream;
    int result;

    if (!(flags & END_HEADERS) || flags & PADDED || !stream_number)
        return UNUSUAL_STEP;
    if (flags & HAS_PRIORITY) {
        if (length < 5 || (word_at(block) & 0x7FFFFFFF) == stream_number)
            return UNUSUAL_STEP;
        block += 5;
        length -= 5;
    }
    if (length > most)
        return UNUSUAL_STEP;
    if (IS_A(connection, server))
        return on_request(connection, stream_number, flags & END_STREAM, block, length);
    stream = find_stream(connection, stream_number);
    if (stream == NULL)
        return PyErr_Occurred() ? FAILED : UNUSUAL_STEP;
    Py_INCREF(stream);
    result = on_response(connection, stream, flags & END_STREAM, block, length);
    Py_DECREF(stream);
    return result;
}

/* The event of the request whose whole body this is, if the server joins both; borrowed. NULL: there is none. */
static PyObject *
request_to_join(PyObject *connection, PyObject *stream, Py_ssize_t size)
{
    PyObject *events = SLOT(connection, connection, C_EVENTS);
    long long stream_id = number(SLOT(stream, stream, M_STREAM_ID));
    Py_ssize_t last, first;

    if (!IS_A(connection, server) || !IS(connection, server, V_JOINS) || !PyList_CheckExact(events) ||
        number(SLOT(stream, stream, M_RECEIVED)) != size)
        return NULL;
    last = PyList_GET_SIZE(events);
    first = last > MAX_EVENTS_BETWEEN ? last - MAX_EVENTS_BETWEEN : 0;
    while (last-- > first) {
        PyObject *event = PyList_GET_ITEM(events, last);
        if (IS_A(event, request_received) && number(SLOT(event, request_received, RR_STREAM)) == stream_id)
            return PyBytes_GET_SIZE(SLOT(event, request_received, RR_HEAD)) ? event : NULL;
    }
    return NULL;
}

/* Makes one event of a request and its body. */
static int
join_request(PyObject *event, PyObject *data)
{
    PyObject *head = SLOT(event, request_received, RR_HEAD), *message;
    int is_chunked = SLOT(SLOT(event, request_received, RR_REQUEST), request, Q_LENGTH) == Py_None;
    Py_ssize_t head_size = PyBytes_GET_SIZE(head), size = PyBytes_GET_SIZE(data);
    char chunk[32];
    int chunk_size = is_chunked && size ? snprintf(chunk, sizeof(chunk), "%zx\r\n", (size_t)size) : 0;
    unsigned char *out;

    message = PyBytes_FromStringAndSize(NULL, head_size + chunk_size + size + (chunk_size ? 2 : 0) + (is_chunked ? 5 : 0));
    if (message == NULL)
        return FAILED;
    out = (unsigned char *)PyBytes_AS_STRING(message);
    out = put_text(out, PyBytes_AS_STRING(head), (size_t)head_size);
    out = put_text(out, chunk, (size_t)chunk_size);
    out = put_text(out, PyBytes_AS_STRING(data), (size_t)size);
    if (chunk_size)
        out = PUT(out, "\r\n");
    if (is_chunked)
        PUT(out, "0\r\n\r\n");
    put(&SLOT(event, request_received, RR_HEAD), message);
    SET(event, request_received, RR_END, 1);
    return DONE;
}

static int
pass_data(PyObject *connection, PyObject *stream, PyObject *data, int end_stream)
{
    PyObject *event, *request = end_stream ? request_to_join(connection, stream, PyBytes_GET_SIZE(data)) : NULL;

    if (request != NULL) {
        PyObject *size = PyLong_FromSsize_t(PyBytes_GET_SIZE(data));
        int failed = size == NULL || join_request(request, data) < 0 || give_back(connection, size) < 0;
        Py_XDECREF(size);
        return failed ? FAILED : DONE;
    }
    event = data_received_layout.type->tp_alloc(data_received_layout.type, 0);
    if (event == NULL || put_number(&SLOT(stream, stream, M_HELD),
                                    number(SLOT(stream, stream, M_HELD)) + PyBytes_GET_SIZE(data)) < 0) {
        Py_XDECREF(event);
        return FAILED;
    }
    SLOT(event, data_received, DR_STREAM) = Py_NewRef(SLOT(stream, stream, M_STREAM_ID));
    SLOT(event, data_received, DR_DATA) = Py_NewRef(data);
    SLOT(event, data_received, DR_END) = Py_NewRef(end_stream ? Py_True : Py_False);
    return append_event(connection, event);
}

static int
on_data(PyObject *connection, uint32_t stream_number, int flags, Text content, Py_ssize_t length)
{
    PyObject *stream = find_stream(connection, stream_number), *windows, *expected, *data;
    long long window, stream_window, received;
    int end_stream = flags & END_STREAM, result;

    if (stream == NULL)
        return PyErr_Occurred() ? FAILED : UNUSUAL_STEP;
    if (flags & PADDED || IS(stream, stream, M_HAS_ENDED) || (IS_A(connection, client) && !IS(stream, stream, M_HAS_RESPONSE)) ||
        (!length && !end_stream))
        return UNUSUAL_STEP;
    windows = flow_control_of(connection);
    window = number(SLOT(windows, flow_control, F_RECEIVE_WINDOW)) - length;
    stream_window = number(SLOT(stream, stream, M_RECEIVE_WINDOW)) - length;
    received = number(SLOT(stream, stream, M_RECEIVED)) + length;
    expected = SLOT(stream, stream, M_LENGTH);
    if (expected != Py_None) {
        long long most = number(expected);
        if (received > most || (end_stream && received != most))
            return UNUSUAL_STEP;
    }
    if (PyErr_Occurred())
        return FAILED;
    if (window < 0 || stream_window < 0)
        return UNUSUAL_STEP;
    if (put_number(&SLOT(windows, flow_control, F_RECEIVE_WINDOW), window) < 0 ||
        put_number(&SLOT(stream, stream, M_RECEIVE_WINDOW), stream_window) < 0 ||
        put_number(&SLOT(stream, stream, M_RECEIVED), received) < 0)
        return FAILED;
    data = bytes_of(content, (size_t)length);
    if (data == NULL)
        return FAILED;
    Py_INCREF(stream);
    result = pass_data(connection, stream, data, end_stream);
    if (result == DONE && end_stream)
        result = peer_ended(connection, stream);
    Py_DECREF(stream);
    Py_DECREF(data);
    return result;
}

static int
on_window_update(PyObject *connection, uint32_t stream_number, Text payload, Py_ssize_t length)
{
    long long increment, window;
    PyObject *windows = flow_control_of(connection), **place = &SLOT(windows, flow_control, F_SEND_WINDOW);
    int counted;

    if (length != 4)
        return UNUSUAL_STEP;
    increment = word_at(payload) & 0x7FFFFFFF;
    if (stream_number) {
        PyObject *stream = find_stream(connection, stream_number);
        if (stream == NULL)
            return PyErr_Occurred() ? FAILED : UNUSUAL_STEP;
        if (IS(stream, stream, M_IS_BLOCKED))
            return UNUSUAL_STEP;
        place = &SLOT(stream, stream, M_SEND_WINDOW);
    }
    else if (IS(windows, flow_control, F_IS_BLOCKED))
        return UNUSUAL_STEP;
    window = number(*place) + increment;
    if (!increment || window > MAX_WINDOW)
        return UNUSUAL_STEP;
    counted = count(connection, WINDOW_UPDATES, WINDOW_UPDATES_BONUS);
    if (counted != DONE)
        return counted;
    return put_number(place, window) < 0 ? FAILED : DONE;
}

PyDoc_STRVAR(read_frames_doc,
             "Read ordinary frames from `position` on; return where the first one begins that is not ordinary, or not\n"
             "complete. Raises HPACKError.");

static PyObject *
read_frames(PyObject *module, PyObject *const *arguments, Py_ssize_t argument_count)
{
    PyObject *connection, *data;
    Py_ssize_t position, end;
    long long largest;
    Text bytes;

    (void)module;
    if (argument_count != 3) {
        PyErr_SetString(PyExc_TypeError, "read_frames takes a connection, its data and a position");
        return NULL;
    }
    connection = arguments[0];
    data = arguments[1];
    if (!is_connection(connection) || !PyBytes_CheckExact(data) || SLOT(field_block_of(connection), field_block, B_STREAM) != Py_None)
        return Py_NewRef(arguments[2]);
    position = PyLong_AsSsize_t(arguments[2]);
    largest = number(SLOT(SLOT(connection, connection, C_LIMITS), limits, L_FRAME_SIZE));
    if (PyErr_Occurred())
        return NULL;
    bytes = (Text)PyBytes_AS_STRING(data);
    end = PyBytes_GET_SIZE(data);
    while (end - position >= FRAME_HEADER) {
        Text frame = bytes + position;
        Py_ssize_t length = (Py_ssize_t)(frame[0] << 16 | frame[1] << 8 | frame[2]);
        uint32_t stream_number = word_at(frame + 5) & 0x7FFFFFFF;
        int result = UNUSUAL_STEP;
        if (length > largest || length > end - position - FRAME_HEADER)
            break;
        if (frame[3] == HEADERS)
            result = on_headers(connection, stream_number, frame[4], frame + FRAME_HEADER, length);
        else if (frame[3] == DATA)
            result = on_data(connection, stream_number, frame[4], frame + FRAME_HEADER, length);
        else if (frame[3] == WINDOW_UPDATE)
            result = on_window_update(connection, stream_number, frame + FRAME_HEADER, length);
        if (result < 0)
            return NULL;
        if (result == UNUSUAL_STEP)
            break;
        position += FRAME_HEADER + length;
    }
    return PyLong_FromSsize_t(position);
}

/* Whole responses. */

static int
is_run(PyObject *event, PyObject *stream_id)
{
    PyObject *own;

    if (IS_A(event, data_received))
        own = SLOT(event, data_received, DR_STREAM);
    else if (IS_A(event, trailers_received))
        own = SLOT(event, trailers_received, TR_STREAM);
    else
        return 0;
    return own == stream_id || number(own) == number(stream_id);
}

static int
is_end(PyObject *event)
{
    if (IS_A(event, response_received))
        return IS(event, response_received, RP_END);
    if (IS_A(event, data_received))
        return IS(event, data_received, DR_END);
    return 1;
}

enum { MAX_PIECES = 64 };

/* The events of one response, by their places. */
typedef struct {
    Py_ssize_t places[MAX_PIECES];
    int count;
} Run;

/* Finds the events of the response that begins at `place`. Returns 0 if it is not whole, or has more than MAX_PIECES
 * events. */
static int
find_run(PyObject *events, Py_ssize_t place, Run *run)
{
    PyObject *event = PyList_GET_ITEM(events, place), *stream_id = SLOT(event, response_received, RP_STREAM);

    run->places[0] = place;
    run->count = 1;
    while (!is_end(event)) {
        do {
            if (++place == PyList_GET_SIZE(events))
                return 0;
            event = PyList_GET_ITEM(events, place);
        } while (!is_run(event, stream_id));
        if (run->count == MAX_PIECES)
            return 0;
        run->places[run->count++] = place;
    }
    return 1;
}

/* Makes a WholeResponse of its events. */
static PyObject *
join_run(PyObject *events, const Run *run)
{
    PyObject *first = PyList_GET_ITEM(events, run->places[0]), *trailers = NULL, *contents[MAX_PIECES], *data, *event;
    PyObject *response = SLOT(first, response_received, RP_RESPONSE);
    Py_ssize_t pieces = 0;

    for (int i = 1; i < run->count; i++) {
        PyObject *one = PyList_GET_ITEM(events, run->places[i]);
        if (IS_A(one, data_received))
            contents[pieces++] = SLOT(one, data_received, DR_DATA);
        else
            trailers = SLOT(one, trailers_received, TR_LINES);
    }
    data = response_message(response, has_body(response, SLOT(first, response_received, RP_METHOD)), contents, pieces, trailers);
    event = data ? whole_response_layout.type->tp_alloc(whole_response_layout.type, 0) : NULL;
    if (event == NULL) {
        Py_XDECREF(data);
        return NULL;
    }
    SLOT(event, whole_response, WR_STREAM) = Py_NewRef(SLOT(first, response_received, RP_STREAM));
    SLOT(event, whole_response, WR_DATA) = data;
    return event;
}

/* Puts None in the place of each event of whole responses, and the WholeResponse in that of the last one, in `out`, a
 * copy of the events. Returns 1; 0 if Python must do it; -1 with an exception. */
static int
join_all(PyObject *connection, PyObject *events, PyObject *out)
{
    Run run;

    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(events); i++) {
        PyObject *event = PyList_GET_ITEM(events, i), *joined;
        int is_open;
        if (IS_A(event, stream_reset))
            return 0;
        if (!IS_A(event, response_received) || bytes_are(SLOT(event, response_received, RP_METHOD), "CONNECT"))
            continue;
        is_open = PyDict_Contains(SLOT(connection, connection, C_STREAMS), SLOT(event, response_received, RP_STREAM));
        if (is_open < 0)
            return -1;
        if (is_open)
            continue;
        if (!find_run(events, i, &run))
            return 0;
        joined = join_run(events, &run);
        if (joined == NULL || joined == Py_None) {
            Py_XDECREF(joined);
            return joined == NULL ? -1 : 0;
        }
        for (int one = 0; one < run.count - 1; one++)
            PyList_SetItem(out, run.places[one], Py_NewRef(Py_None));
        PyList_SetItem(out, run.places[run.count - 1], joined);
    }
    return 1;
}

PyDoc_STRVAR(join_responses_doc,
             "Return the events with those of each whole response as one. Return None if Python must do it.");

static PyObject *
join_responses(PyObject *module, PyObject *const *arguments, Py_ssize_t argument_count)
{
    PyObject *events, *out;
    Py_ssize_t size, kept = 0;
    int result;

    (void)module;
    if (argument_count != 2 || !is_connection(arguments[0]) || !PyList_CheckExact(arguments[1]) ||
        PyList_GET_SIZE(arguments[1]) > MAX_EVENTS_BETWEEN)
        Py_RETURN_NONE;
    events = arguments[1];
    size = PyList_GET_SIZE(events);
    out = PyList_GetSlice(events, 0, size);
    if (out == NULL)
        return NULL;
    result = join_all(arguments[0], events, out);
    if (result <= 0) {
        Py_DECREF(out);
        return result < 0 ? NULL : Py_NewRef(Py_None);
    }
    for (Py_ssize_t i = 0; i < size; i++) {
        PyObject *event = PyList_GET_ITEM(out, i);
        if (event == Py_None)
            continue;
        if (kept != i) {
            PyList_SET_ITEM(out, i, PyList_GET_ITEM(out, kept));
            PyList_SET_ITEM(out, kept, event);
        }
        kept++;
    }
    if (PyList_SetSlice(out, kept, size, NULL) < 0)
        Py_CLEAR(out);
    return out;
}

/* Sending. */

static unsigned char *
put_frame_header(unsigned char *out, size_t length, int kind, int flags, uint32_t stream_number)
{
    *out++ = (unsigned char)(length >> 16);
    *out++ = (unsigned char)(length >> 8);
    *out++ = (unsigned char)length;
    *out++ = (unsigned char)kind;
    *out++ = (unsigned char)flags;
    *out++ = (unsigned char)(stream_number >> 24);
    *out++ = (unsigned char)(stream_number >> 16);
    *out++ = (unsigned char)(stream_number >> 8);
    *out++ = (unsigned char)stream_number;
    return out;
}

/* FlowControl.available: the bytes that a body may have. */
static long long
window_for(PyObject *connection, PyObject *stream_window)
{
    long long own = number(SLOT(flow_control_of(connection), flow_control, F_SEND_WINDOW)), of_stream = number(stream_window);
    long long window = own < of_stream ? own : of_stream;

    return window > 0 ? window : 0;
}

static unsigned char *
put_data_frames(unsigned char *out, const Message *message, size_t largest, uint32_t stream_number, int end_stream)
{
    size_t left = message->size, used = 0; /* used: bytes of the piece that are written */
    int piece = 0;

    while (left) {
        size_t size = left < largest ? left : largest;
        left -= size;
        out = put_frame_header(out, size, DATA, !left && end_stream ? END_STREAM : 0, stream_number);
        while (size) {
            size_t most = message->pieces[piece].length - used, some = size < most ? size : most;
            out = put_text(out, message->pieces[piece].at + used, some);
            used += some;
            size -= some;
            if (used == message->pieces[piece].length) {
                piece++;
                used = 0;
            }
        }
    }
    return out;
}

/* Writes a whole message as frames into the output, and takes its body from the windows. pairs: pseudo-header fields,
 * which come first. end_stream: this message ends our side. */
static int
send_message(PyObject *connection, PyObject **stream_window, uint32_t stream_number, const Line *pseudo, int pseudo_count,
             Message *message, int end_stream)
{
    Encoder *encoder = (Encoder *)SLOT(connection, connection, C_ENCODER);
    size_t largest = (size_t)number(SLOT(SLOT(connection, connection, C_SETTINGS), settings, P_FRAME_SIZE));
    int trailers = message->line_count - message->trailers_begin;
    unsigned char *head = scratch_of(0, message->room), *out;
    size_t head_size, trailers_size = 0, total;
    PyObject *frames, **window = &SLOT(flow_control_of(connection), flow_control, F_SEND_WINDOW);
    Line te = {(Text) "te", (Text) "trailers", 2, 8};
    Block block;
    int failed;

    if (head == NULL)
        return FAILED;
    begin_block(encoder, &block, head);
    if (put_lines(encoder, &block, pseudo, pseudo_count) < 0 ||
        put_lines(encoder, &block, message->lines, message->trailers_begin) < 0 ||
        (message->has_te && pseudo_count > 1 && put_lines(encoder, &block, &te, 1) < 0))
        return FAILED;
    head_size = (size_t)(block.at - head);
    if (trailers) {
        if (put_lines(encoder, &block, message->lines + message->trailers_begin, trailers) < 0)
            return FAILED;
        trailers_size = (size_t)(block.at - head) - head_size;
    }
    total = FRAME_HEADER + head_size + message->size + (message->size + largest - 1) / largest * FRAME_HEADER +
            (trailers ? FRAME_HEADER + trailers_size : 0);
    frames = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
    if (frames == NULL)
        return FAILED;
    out = (unsigned char *)PyBytes_AS_STRING(frames);
    out = put_frame_header(out, head_size, HEADERS, END_HEADERS | (end_stream && !message->size && !trailers ? END_STREAM : 0),
                           stream_number);
    out = put_text(out, head, head_size);
    out = put_data_frames(out, message, largest, stream_number, end_stream && !trailers);
    if (trailers) {
        out = put_frame_header(out, trailers_size, HEADERS, END_HEADERS | END_STREAM, stream_number);
        put_text(out, head + head_size, trailers_size);
    }
    failed = PyList_Append(SLOT(connection, connection, C_OUT), frames) < 0;
    Py_DECREF(frames);
    if (failed || add_useful(connection, 1 + (message->size > 0) + (trailers > 0)) < 0)
        return FAILED;
    if (message->size && (put_number(stream_window, number(*stream_window) - (long long)message->size) < 0 ||
                          put_number(window, number(*window) - (long long)message->size) < 0))
        return FAILED;
    return DONE;
}

/* True if the fields of a message take one frame at most. */
static int
fits_frame(PyObject *connection, const Message *message)
{
    return (long long)message->room + 64 <= number(SLOT(SLOT(connection, connection, C_SETTINGS), settings, P_FRAME_SIZE));
}

PyDoc_STRVAR(respond_doc,
             "Send a whole response, and return True. Return False if the windows do not allow it now, and None, having done\n"
             "nothing, if something about it is unusual.");

static PyObject *
respond(PyObject *module, PyObject *const *arguments, Py_ssize_t argument_count)
{
    PyObject *connection, *stream, *data, *method;
    unsigned char *lowered;
    Text at, end, lines;
    Message message;
    Line status = {(Text) ":status", NULL, 7, 3};
    int bodiless, result;

    (void)module;
    if (argument_count != 4 || !is_connection(arguments[0]) || !IS_A(arguments[0], server) ||
        !PyBytes_Check(arguments[2]) || !PyBytes_Check(arguments[3]))
        Py_RETURN_NONE;
    connection = arguments[0];
    data = arguments[2];
    method = arguments[3];
    stream = PyDict_GetItemWithError(SLOT(connection, connection, C_STREAMS), arguments[1]);
    if (stream == NULL || IS(stream, stream, M_IS_ENDED)) {
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_TRUE;
    }
    at = (Text)PyBytes_AS_STRING(data);
    end = at + PyBytes_GET_SIZE(data);
    if (end - at < 15 || memcmp(at, "HTTP/1.1 ", 9) != 0 || at[9] < '2' || !all_are(at + 9, 3, IS_DIGIT) ||
        (at[12] != ' ' && at[12] != '\r'))
        Py_RETURN_NONE;
    status.value = at + 9;
    lines = at + 12;
    while (lines < end && classes[*lines] & IS_TEXT)
        lines++;
    if (end - lines < 2 || lines[0] != '\r' || lines[1] != '\n')
        Py_RETURN_NONE;
    lowered = scratch_of(1, (size_t)(end - lines));
    if (lowered == NULL)
        return NULL;
    lines = read_lines(lines + 2, end, &lowered, &message, 0);
    if (lines == NULL)
        Py_RETURN_NONE;
    bodiless = bytes_are(method, "HEAD") || is_text(status.value, 3, "204") || is_text(status.value, 3, "304");
    if (bodiless ? message.is_chunked : !message.is_chunked && message.length < 0)
        Py_RETURN_NONE;
    message.room += status.name_length + status.value_length + FIELD_ROOM;
    if (!read_body(lines, end, &lowered, &message, !bodiless) || !fits_frame(connection, &message))
        Py_RETURN_NONE;
    if ((long long)message.size > window_for(connection, SLOT(stream, stream, M_SEND_WINDOW)))
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
    Py_INCREF(stream);
    result = send_message(connection, &SLOT(stream, stream, M_SEND_WINDOW), (uint32_t)PyLong_AsUnsignedLong(arguments[1]),
                          &status, 1, &message, 1);
    if (result == DONE)
        result = we_ended(connection, stream);
    Py_DECREF(stream);
    return result < 0 ? NULL : Py_NewRef(Py_True);
}

PyDoc_STRVAR(request_doc,
             "Begin a request and return its stream. Return 0 if the windows do not allow it now, and None, having done\n"
             "nothing, if something about it is unusual.");

static PyObject *
request(PyObject *module, PyObject *const *arguments, Py_ssize_t argument_count)
{
    PyObject *connection, *data, *scheme, *stream, *stream_id, *method, **window;
    unsigned char *lowered;
    Text at, end, lines, target;
    Message message;
    Line pseudo[4];
    size_t method_length;
    int is_whole, result;

    (void)module;
    if (argument_count != 4 || !is_connection(arguments[0]) || !IS_A(arguments[0], client) ||
        !PyBytes_Check(arguments[1]) || !PyBytes_Check(arguments[2]))
        Py_RETURN_NONE;
    connection = arguments[0];
    data = arguments[1];
    scheme = arguments[2];
    is_whole = PyObject_IsTrue(arguments[3]);
    at = (Text)PyBytes_AS_STRING(data);
    end = at + PyBytes_GET_SIZE(data);
    target = at;
    while (target < end && classes[*target] & IS_TOKEN)
        target++;
    method_length = (size_t)(target - at);
    if (!method_length || method_length > 64 || end - target < 2 || target[0] != ' ' || target[1] != '/' ||
        is_text(at, method_length, "CONNECT"))
        Py_RETURN_NONE;
    target++;
    lines = target;
    while (lines < end && classes[*lines] & IS_TARGET)
        lines++;
    if (end - lines < 11 || memcmp(lines, " HTTP/1.1\r\n", 11) != 0)
        Py_RETURN_NONE;
    pseudo[0] = (Line){(Text) ":method", at, 7, method_length};
    pseudo[1] = (Line){(Text) ":scheme", (Text)PyBytes_AS_STRING(scheme), 7, (size_t)PyBytes_GET_SIZE(scheme)};
    pseudo[3] = (Line){(Text) ":path", target, 5, (size_t)(lines - target)};
    lowered = scratch_of(1, (size_t)(end - lines));
    if (lowered == NULL)
        return NULL;
    lines = read_lines(lines + 11, end, &lowered, &message, 1);
    if (lines == NULL || !message.host.name_length || !is_usual_host(message.host.value, message.host.value_length))
        Py_RETURN_NONE;
    pseudo[2] = (Line){(Text) ":authority", message.host.value, 10, message.host.value_length};
    for (int i = 0; i < 4; i++)
        message.room += pseudo[i].name_length + pseudo[i].value_length + FIELD_ROOM;
    if (is_whole ? !read_body(lines, end, &lowered, &message, message.is_chunked || message.length >= 0) : lines != end)
        Py_RETURN_NONE;
    if (!fits_frame(connection, &message))
        Py_RETURN_NONE;
    window = &SLOT(SLOT(connection, connection, C_SETTINGS), settings, P_INITIAL_WINDOW);
    if ((long long)message.size > window_for(connection, *window))
        return PyErr_Occurred() ? NULL : Py_NewRef(zero);
    stream_id = Py_NewRef(SLOT(connection, client, N_NEXT));
    method = bytes_of(at, method_length);
    stream = method ? new_stream(connection, stream_id, method) : NULL;
    Py_XDECREF(method);
    result = stream == NULL || PyDict_SetItem(SLOT(connection, connection, C_STREAMS), stream_id, stream) < 0 ||
                     put_number(&SLOT(connection, client, N_NEXT), number(stream_id) + 2) < 0
                 ? FAILED
                 : send_message(connection, &SLOT(stream, stream, M_SEND_WINDOW), (uint32_t)PyLong_AsUnsignedLong(stream_id),
                                pseudo, 4, &message, is_whole);
    if (result == DONE)
        SET(stream, stream, M_IS_ENDED, is_whole);
    Py_XDECREF(stream);
    if (result < 0)
        Py_CLEAR(stream_id);
    return stream_id;
}

/* The module. */

PyDoc_STRVAR(decode_huffman_doc, "Return the string; None if the padding is not that of RFC 7541, or EOS occurs.");

static PyObject *
decode_huffman(PyObject *module, PyObject *given)
{
    Py_buffer data;
    PyObject *result = NULL;
    unsigned char *out;

    (void)module;
    if (PyObject_GetBuffer(given, &data, PyBUF_SIMPLE) < 0)
        return NULL;
    out = scratch_of(0, decoded_room((size_t)data.len));
    if (out != NULL) {
        Py_ssize_t size = huffman_decode(data.buf, (size_t)data.len, out);
        result = size < 0 ? Py_NewRef(Py_None) : bytes_of(out, (size_t)size);
    }
    PyBuffer_Release(&data);
    return result;
}

PyDoc_STRVAR(encode_huffman_doc, "Return the coded string.");

static PyObject *
encode_huffman(PyObject *module, PyObject *given)
{
    Py_buffer data;
    PyObject *result;

    (void)module;
    if (PyObject_GetBuffer(given, &data, PyBUF_SIMPLE) < 0)
        return NULL;
    result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)huffman_size(data.buf, (size_t)data.len));
    if (result != NULL)
        huffman_encode(data.buf, (size_t)data.len, (unsigned char *)PyBytes_AS_STRING(result));
    PyBuffer_Release(&data);
    return result;
}

PyDoc_STRVAR(configure_doc, "Tell what sections and fields are made of: FieldSection, make_field, HPACKError.");

static PyObject *
configure(PyObject *module, PyObject *args)
{
    PyObject *section, *field, *error;

    (void)module;
    if (!PyArg_ParseTuple(args, "OOO:configure", &section, &field, &error))
        return NULL;
    if (!PyType_Check(section)) {
        PyErr_SetString(PyExc_TypeError, "FieldSection must be a class");
        return NULL;
    }
    Py_XSETREF(section_type, Py_NewRef(section));
    Py_XSETREF(make_field, Py_NewRef(field));
    Py_XSETREF(hpack_error, Py_NewRef(error));
    Py_RETURN_NONE;
}

PyDoc_STRVAR(configure_connections_doc, "Tell the classes that the fast path works on, by name.");

static PyObject *
configure_connections(PyObject *module, PyObject *classes)
{
    static const Class all[] = {
        CLASS(connection), CLASS(server), CLASS(client), CLASS(field_block), CLASS(flow_control), CLASS(stream),
        CLASS(limits), CLASS(settings), CLASS(guard), CLASS(request), CLASS(response), CLASS(request_received),
        CLASS(response_received), CLASS(data_received), CLASS(trailers_received), CLASS(whole_response),
        CLASS(stream_reset), {NULL, NULL, NULL},
    };

    (void)module;
    if (!PyDict_Check(classes)) {
        PyErr_SetString(PyExc_TypeError, "configure_connections takes a dict of classes");
        return NULL;
    }
    if (learn_all(classes, all) < 0)
        return NULL;
    is_configured = 1;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"decode", decode_huffman, METH_O, decode_huffman_doc},
    {"encode", encode_huffman, METH_O, encode_huffman_doc},
    {"configure", configure, METH_VARARGS, configure_doc},
    {"configure_connections", configure_connections, METH_O, configure_connections_doc},
    {"read_frames", METHOD(read_frames), METH_FASTCALL, read_frames_doc},
    {"join_responses", METHOD(join_responses), METH_FASTCALL, join_responses_doc},
    {"respond", METHOD(respond), METH_FASTCALL, respond_doc},
    {"request", METHOD(request), METH_FASTCALL, request_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_compiled", "HTTP/2: header compression and ordinary frames.", -1, methods, NULL, NULL, NULL, NULL,
};

/* Reads the tables of hpack_table.py. */
static int
read_tables(void)
{
    PyObject *table = PyImport_ImportModule("ktcpvs.protocols.http2.hpack_table"), *lengths, *fields;
    int failed;

    if (table == NULL)
        return -1;
    lengths = PyObject_GetAttrString(table, "CODE_LENGTHS");
    fields = lengths ? PyObject_GetAttrString(table, "STATIC_TABLE") : NULL;
    failed = fields == NULL || make_huffman_tables(lengths) < 0 || make_static_entries(fields) < 0;
    Py_DECREF(table);
    Py_XDECREF(lengths);
    Py_XDECREF(fields);
    return failed ? -1 : 0;
}

PyMODINIT_FUNC
PyInit__compiled(void)
{
    PyObject *module;

    make_classes();
    no_names = PyFrozenSet_New(NULL);
    no_bytes = PyBytes_FromStringAndSize(NULL, 0);
    zero = PyLong_FromLong(0);
    s_pairs = PyUnicode_InternFromString("pairs");
    s_sensitive = PyUnicode_InternFromString("sensitive");
    s_section_received = PyUnicode_InternFromString("_section_received");
    s_give_back = PyUnicode_InternFromString("give_back");
    if (!no_names || !no_bytes || !zero || !s_pairs || !s_sensitive || !s_section_received || !s_give_back ||
        read_tables() < 0 || PyType_Ready(&decoder_type) < 0 || PyType_Ready(&encoder_type) < 0)
        return NULL;
    module = PyModule_Create(&definition);
    if (module == NULL || PyModule_AddObjectRef(module, "Decoder", (PyObject *)&decoder_type) < 0 ||
        PyModule_AddObjectRef(module, "Encoder", (PyObject *)&encoder_type) < 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
