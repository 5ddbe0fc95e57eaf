/* The hot functions of this package, compiled: plain messages (http1/plain_python.py), lines of the access log
 * (access_log.py) and whole ClientHellos (client_hello.py). The Python modules say what they do, and stand in where this
 * one is not installed.
 *
 * One pass over a head checks the grammar of RFC 9112 and finds the fields that matter. Nothing here decides what is
 * valid: a head that is not plain is left to the readers in Python.
 */

#define _GNU_SOURCE /* memmem */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <string.h>

enum { TOKEN = 1, TEXT = 2, TARGET = 4, ALNUM = 8, HEX = 16, LABEL = 32, PLAIN = 64, ADDRESS = 128 };

/* What a byte can be part of; filled in when the module is loaded. */
static unsigned char kinds[256];

/* A byte in lower case if it is a letter or a digit, else a hyphen: as in field_names.py. */
static unsigned char canonical[256];

#define IS(byte, kind) (kinds[(unsigned char)(byte)] & (kind))

static void
fill_tables(void)
{
    for (int byte = 0; byte < 256; byte++) {
        int letter = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
        int digit = byte >= '0' && byte <= '9';
        int kind = 0;
        if (letter || digit)
            kind |= ALNUM | TOKEN | LABEL;
        if (digit || (byte >= 'a' && byte <= 'f') || (byte >= 'A' && byte <= 'F'))
            kind |= HEX | ADDRESS;
        if (byte == ':' || byte == '.')
            kind |= ADDRESS;
        if (byte && strchr("!#$%&'*+-.^_`|~", byte))
            kind |= TOKEN;
        if (byte && strchr("-_~!$&'()*+;=", byte))
            kind |= LABEL;
        if (byte == '\t' || (byte >= 0x20 && byte != 0x7f))
            kind |= TEXT;
        if (byte > 0x20 && byte != 0x7f && byte != '#')
            kind |= TARGET;
        if (byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\')
            kind |= PLAIN;
        kinds[byte] = (unsigned char)kind;
        canonical[byte] = (unsigned char)(letter ? byte | 0x20 : digit ? byte : '-');
    }
}

/* A part of a message. */
typedef struct {
    const char *begin;
    const char *end;
} Span;

static Py_ssize_t
length_of(Span span)
{
    return span.end - span.begin;
}

static Span
stripped(const char *begin, const char *end)
{
    while (begin < end && (*begin == ' ' || *begin == '\t'))
        begin++;
    while (begin < end && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    return (Span){begin, end};
}

/* Compares a name or a value with a text in lower case, whatever its case. */
static int
is_text(Span span, const char *lower, Py_ssize_t size)
{
    if (length_of(span) != size)
        return 0;
    for (Py_ssize_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)span.begin[i];
        if (byte >= 'A' && byte <= 'Z')
            byte |= 0x20;
        if (byte != (unsigned char)lower[i])
            return 0;
    }
    return 1;
}

#define IS_TEXT(span, text) is_text(span, text, sizeof(text) - 1)

/* Compares with a canonical name. */
static int
is_canonical(Span span, const char *name, Py_ssize_t size)
{
    if (length_of(span) != size)
        return 0;
    for (Py_ssize_t i = 0; i < size; i++)
        if (canonical[(unsigned char)span.begin[i]] != (unsigned char)name[i])
            return 0;
    return 1;
}

#define IS_CANONICAL(span, text) is_canonical(span, text, sizeof(text) - 1)

static const char *
skip_escape(const char *at, const char *end)
{
    return end - at >= 3 && IS(at[1], HEX) && IS(at[2], HEX) ? at + 3 : NULL;
}

/* RFC 9110, section 7.2, as HOST in grammar.py. */
static int
is_host(Span host)
{
    const char *at = host.begin, *end = host.end;
    if (at == end)
        return 1;
    if (*at == '[') {
        const char *begin = ++at;
        while (at < end && IS(*at, ADDRESS))
            at++;
        if (at == begin)
            return 0;
        if (end - at >= 3 && memcmp(at, "%25", 3) == 0) {
            begin = at += 3;
            while (at < end) {
                if (IS(*at, ALNUM) || *at == '-' || *at == '.' || *at == '_' || *at == '~')
                    at++;
                else if (*at == '%' && skip_escape(at, end))
                    at += 3;
                else
                    break;
            }
            if (at == begin)
                return 0;
        }
        if (at == end || *at != ']')
            return 0;
        at++;
    }
    else {
        int in_label = 0;
        for (; at < end && *at != ':'; ) {
            if (IS(*at, LABEL)) {
                in_label = 1;
                at++;
            }
            else if (*at == '%' && skip_escape(at, end)) {
                in_label = 1;
                at += 3;
            }
            else if (*at == '.' && in_label) {
                in_label = 0;
                at++;
            }
            else
                return 0;
        }
        if (at == host.begin)
            return 0;
    }
    if (at == end)
        return 1;
    if (*at++ != ':' || end - at > 5)
        return 0;
    for (; at < end; at++)
        if (*at < '0' || *at > '9')
            return 0;
    return 1;
}

/* Reads one header line at `*at`, which is moved behind it. Returns 0 when it is none. */
static int
read_line(const char **at, const char *end, Span *name, Span *value)
{
    const char *here = *at, *begin = here;
    while (here < end && IS(*here, TOKEN))
        here++;
    if (here == begin || here == end || *here != ':')
        return 0;
    *name = (Span){begin, here};
    begin = ++here;
    while (here < end && IS(*here, TEXT))
        here++;
    if (end - here < 2 || here[0] != '\r' || here[1] != '\n')
        return 0;
    *value = (Span){begin, here};
    *at = here + 2;
    return 1;
}

/* Requests. */

typedef struct {
    PyObject_HEAD
    PyObject *data, *out, *method, *target, *lines, *host, *minor, *keep_alive, *connection, *referer, *user_agent, *body;
} PlainRequest;

static PyTypeObject *request_type;
static PyObject *get_method, *no_bytes;

static PyMemberDef request_members[] = {
    {"data", T_OBJECT, offsetof(PlainRequest, data), 0, NULL},
    {"out", T_OBJECT, offsetof(PlainRequest, out), 0, NULL},
    {"method", T_OBJECT, offsetof(PlainRequest, method), 0, NULL},
    {"target", T_OBJECT, offsetof(PlainRequest, target), 0, NULL},
    {"lines", T_OBJECT, offsetof(PlainRequest, lines), 0, NULL},
    {"host", T_OBJECT, offsetof(PlainRequest, host), 0, NULL},
    {"minor", T_OBJECT, offsetof(PlainRequest, minor), 0, NULL},
    {"keep_alive", T_OBJECT, offsetof(PlainRequest, keep_alive), 0, NULL},
    {"connection", T_OBJECT, offsetof(PlainRequest, connection), 0, NULL},
    {"referer", T_OBJECT, offsetof(PlainRequest, referer), 0, NULL},
    {"user_agent", T_OBJECT, offsetof(PlainRequest, user_agent), 0, NULL},
    {"body", T_OBJECT, offsetof(PlainRequest, body), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static void
request_dealloc(PyObject *self)
{
    PlainRequest *request = (PlainRequest *)self;
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(request->data);
    Py_XDECREF(request->out);
    Py_XDECREF(request->method);
    Py_XDECREF(request->target);
    Py_XDECREF(request->lines);
    Py_XDECREF(request->host);
    Py_XDECREF(request->minor);
    Py_XDECREF(request->keep_alive);
    Py_XDECREF(request->connection);
    Py_XDECREF(request->referer);
    Py_XDECREF(request->user_agent);
    Py_XDECREF(request->body);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyType_Slot request_slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, request_dealloc},
    {Py_tp_members, request_members},
    {Py_tp_doc, "A plain request; see plain_python.PlainRequest."},
    {0, NULL},
};

static PyType_Spec request_spec = {
    "ktcpvs.protocols._compiled.PlainRequest", sizeof(PlainRequest), 0, Py_TPFLAGS_DEFAULT, request_slots,
};

enum { MAX_REPLACED = 16 }; /* as in plain_python.py */

typedef struct {
    PyObject_HEAD
    Py_ssize_t head_size, head_lines, uri_size;
    int logs, replaced_count;
    PyObject *replaced; /* a tuple of bytes, which `names` point into */
    Span names[MAX_REPLACED];
} RequestScanner;

static int
scanner_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    RequestScanner *scanner = (RequestScanner *)self;
    static char *keywords[] = {"head_size", "head_lines", "uri_size", "replaced", "logs", NULL};
    PyObject *replaced;
    Py_ssize_t head_size, head_lines, uri_size;
    int logs;
    Span spans[MAX_REPLACED];
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "nnnOp", keywords, &head_size, &head_lines, &uri_size, &replaced,
                                     &logs))
        return -1;
    PyObject *names = PySequence_Tuple(replaced);
    if (names == NULL)
        return -1;
    Py_ssize_t count = PyTuple_Size(names);
    if (count > MAX_REPLACED) {
        Py_DECREF(names);
        PyErr_SetString(PyExc_ValueError, "too many names");
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        char *text;
        Py_ssize_t size;
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(names, i), &text, &size) < 0) {
            Py_DECREF(names);
            return -1;
        }
        spans[i] = (Span){text, text + size};
    }
    /* Nothing has changed until here, so that a scanner that is initialised again and fails keeps its names. */
    PyObject *old = scanner->replaced;
    scanner->replaced = names;
    scanner->replaced_count = (int)count;
    memcpy(scanner->names, spans, (size_t)count * sizeof *spans);
    scanner->head_size = head_size;
    scanner->head_lines = head_lines;
    scanner->uri_size = uri_size;
    scanner->logs = logs;
    Py_XDECREF(old);
    return 0;
}

static void
scanner_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(((RequestScanner *)self)->replaced);
    PyObject_Free(self);
    Py_DECREF(type);
}

/* What the scan of a request finds. A `begin` of NULL: the field is missing. */
typedef struct {
    Span target, host, option, connection, referer, user_agent;
    const char *lines;
    char minor;
} Found;

/* Returns 0 when the field makes the request one that is not plain. */
static int
take_field(const RequestScanner *scanner, Found *found, Span name, Span value, const char *next)
{
    switch (length_of(name)) {
    case 2:
        if (IS_TEXT(name, "te"))
            return 0;
        break;
    case 4:
        if (IS_TEXT(name, "host")) {
            if (found->host.begin)
                return 0;
            found->host = stripped(value.begin, value.end);
        }
        break;
    case 6:
        if (IS_TEXT(name, "expect"))
            return 0;
        break;
    case 7:
        if (IS_TEXT(name, "upgrade"))
            return 0;
        if (scanner->logs && !found->referer.begin && IS_TEXT(name, "referer"))
            found->referer = stripped(value.begin, value.end);
        break;
    case 10:
        if (IS_TEXT(name, "connection")) {
            if (found->option.begin)
                return 0;
            found->option = stripped(value.begin, value.end);
            found->connection = (Span){name.begin, next};
        }
        else if (IS_TEXT(name, "keep-alive"))
            return 0;
        else if (scanner->logs && !found->user_agent.begin && IS_TEXT(name, "user-agent"))
            found->user_agent = stripped(value.begin, value.end);
        break;
    case 14:
        if (IS_CANONICAL(name, "content-length") || IS_TEXT(name, "http2-settings"))
            return 0;
        break;
    case 16:
        if (IS_TEXT(name, "proxy-connection"))
            return 0;
        break;
    case 17:
        if (IS_CANONICAL(name, "transfer-encoding"))
            return 0;
        break;
    }
    for (int i = 0; i < scanner->replaced_count; i++)
        if (is_canonical(name, scanner->names[i].begin, length_of(scanner->names[i])))
            return 0;
    return 1;
}

/* Returns 0 when the message is no plain request. */
static int
scan_request(const RequestScanner *scanner, const char *data, Py_ssize_t size, Found *found)
{
    const char *at = data + 4, *end = data + size;
    if (size > scanner->head_size || size < 5 || memcmp(data, "GET /", 5) != 0)
        return 0;
    while (at < end && IS(*at, TARGET))
        at++;
    found->target = (Span){data + 4, at};
    if (length_of(found->target) > scanner->uri_size || end - at < 13 || memcmp(at, " HTTP/1.", 8) != 0)
        return 0;
    found->minor = at[8];
    if (found->minor < '0' || found->minor > '9' || at[9] != '\r' || at[10] != '\n')
        return 0;
    found->lines = at += 11;
    Py_ssize_t count = 0;
    while (end - at != 2) {
        Span name, value;
        if (!read_line(&at, end, &name, &value) || ++count > scanner->head_lines)
            return 0;
        if (!take_field(scanner, found, name, value, at))
            return 0;
    }
    if (at[0] != '\r' || at[1] != '\n' || !found->host.begin || !is_host(found->host))
        return 0;
    return !found->option.begin || IS_TEXT(found->option, "keep-alive") || IS_TEXT(found->option, "close");
}

static PyObject *
bytes_of(Span span)
{
    if (!span.begin)
        return Py_NewRef(Py_None);
    if (span.begin == span.end)
        return Py_NewRef(no_bytes);
    return PyBytes_FromStringAndSize(span.begin, length_of(span));
}

static char *
put(char *at, const char *begin, Py_ssize_t size)
{
    memcpy(at, begin, (size_t)size);
    return at + size;
}

/* The request as it goes on to a server. */
static PyObject *
onward(PyObject *data, const char *begin, Py_ssize_t size, const Found *found, const char *added, Py_ssize_t added_size)
{
    Py_ssize_t cut = found->connection.begin ? length_of(found->connection) : 0;
    if (!cut && !added_size && found->minor == '1')
        return Py_NewRef(data);
    PyObject *out = PyBytes_FromStringAndSize(NULL, size - cut + added_size);
    if (out == NULL)
        return NULL;
    char *at = PyBytes_AsString(out);
    const char *end = begin + size - 2;
    at = put(at, begin, found->lines - begin);
    at[-3] = '1';
    if (cut) {
        at = put(at, found->lines, found->connection.begin - found->lines);
        at = put(at, found->connection.end, end - found->connection.end);
    }
    else
        at = put(at, found->lines, end - found->lines);
    at = put(at, added, added_size);
    put(at, "\r\n", 2);
    return out;
}

static PyObject *
scanner_scan(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    const RequestScanner *scanner = (RequestScanner *)self;
    char *data, *added;
    Py_ssize_t size, added_size;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "scan takes data and added");
        return NULL;
    }
    if (PyBytes_AsStringAndSize(args[0], &data, &size) < 0 || PyBytes_AsStringAndSize(args[1], &added, &added_size) < 0)
        return NULL;
    Found found = {0};
    if (!scan_request(scanner, data, size, &found))
        Py_RETURN_NONE;
    PlainRequest *request = PyObject_New(PlainRequest, request_type);
    if (request == NULL)
        return NULL;
    int minor = found.minor != '0', keeps = found.option.begin && IS_TEXT(found.option, "keep-alive");
    request->data = Py_NewRef(args[0]);
    request->body = Py_NewRef(no_bytes);
    request->method = Py_NewRef(get_method);
    request->minor = PyBool_FromLong(minor);
    request->keep_alive = PyBool_FromLong(minor ? !found.option.begin || keeps : keeps);
    request->target = bytes_of(found.target);
    request->lines = PyBytes_FromStringAndSize(found.lines, data + size - 2 - found.lines);
    request->host = bytes_of(found.host);
    request->connection = found.connection.begin ? bytes_of(found.connection) : Py_NewRef(no_bytes);
    request->referer = bytes_of(found.referer);
    request->user_agent = bytes_of(found.user_agent);
    request->out = onward(args[0], data, size, &found, added, added_size);
    if (!request->target || !request->lines || !request->host || !request->connection || !request->referer ||
        !request->user_agent || !request->out) {
        Py_DECREF(request);
        return NULL;
    }
    return (PyObject *)request;
}

static PyMethodDef scanner_methods[] = {
    {"scan", (PyCFunction)(void (*)(void))scanner_scan, METH_FASTCALL, "scan(data, added): see plain_python."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot scanner_slots[] = {
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, scanner_init},
    {Py_tp_dealloc, scanner_dealloc},
    {Py_tp_methods, scanner_methods},
    {Py_tp_doc, "Recognises plain requests; see plain_python.RequestScanner."},
    {0, NULL},
};

static PyType_Spec scanner_spec = {
    "ktcpvs.protocols._compiled.RequestScanner", sizeof(RequestScanner), 0, Py_TPFLAGS_DEFAULT, scanner_slots,
};

/* Responses. */

static PyObject *
scan_response(PyObject *module, PyObject *argument)
{
    char *data;
    Py_ssize_t size;
    (void)module;
    if (PyBytes_AsStringAndSize(argument, &data, &size) < 0)
        return NULL;
    const char *at, *end = data + size;
    if (size < 16 || memcmp(data, "HTTP/1.1 ", 9) != 0)
        Py_RETURN_NONE;
    int status = 0;
    for (int i = 9; i < 12; i++) {
        if (data[i] < '0' || data[i] > '9')
            Py_RETURN_NONE;
        status = status * 10 + data[i] - '0';
    }
    if (status < 200 || status >= 500 || status == 204 || status == 304 || status == 426)
        Py_RETURN_NONE;
    at = data + 12;
    if (*at == ' ')
        while (at < end && IS(*at, TEXT))
            at++;
    if (end - at < 4 || at[0] != '\r' || at[1] != '\n')
        Py_RETURN_NONE;
    at += 2;
    Span connection = {NULL, NULL};
    long long length = -1;
    while (end - at < 2 || at[0] != '\r' || at[1] != '\n') {
        Span name, value;
        if (!read_line(&at, end, &name, &value))
            Py_RETURN_NONE;
        Py_ssize_t letters = length_of(name);
        if (letters == 14 && IS_TEXT(name, "content-length")) {
            value = stripped(value.begin, value.end);
            Py_ssize_t digits = length_of(value);
            if (length >= 0 || digits < 1 || digits > 18 || (digits > 1 && *value.begin == '0'))
                Py_RETURN_NONE;
            length = 0;
            for (; value.begin < value.end; value.begin++) {
                if (*value.begin < '0' || *value.begin > '9')
                    Py_RETURN_NONE;
                length = length * 10 + *value.begin - '0';
            }
        }
        else if (letters == 10 && IS_TEXT(name, "connection")) {
            if (connection.begin || !IS_TEXT(stripped(value.begin, value.end), "keep-alive"))
                Py_RETURN_NONE;
            connection = (Span){name.begin, at};
        }
        else if ((letters == 10 && IS_TEXT(name, "keep-alive")) || (letters == 7 && IS_TEXT(name, "upgrade")) ||
                 (letters == 16 && IS_TEXT(name, "proxy-connection")) ||
                 (letters == 17 && IS_TEXT(name, "transfer-encoding")))
            Py_RETURN_NONE;
    }
    if (length < 0)
        Py_RETURN_NONE;
    Py_ssize_t head_size = at - data, cut = connection.begin ? length_of(connection) : 0;
    PyObject *head = PyBytes_FromStringAndSize(NULL, head_size - cut);
    if (head == NULL)
        return NULL;
    char *to = PyBytes_AsString(head);
    if (cut) {
        to = put(to, data, connection.begin - data);
        put(to, connection.end, at - connection.end);
    }
    else
        put(to, data, head_size);
    return Py_BuildValue("inLN", status, head_size + 2, length, head);
}

/* Lines of the access log. */

/* A line that is being written. Its room is large enough from the beginning. */
typedef struct {
    char *at;
} Line;

static void
append(Line *line, const char *text, Py_ssize_t size)
{
    line->at = put(line->at, text, size);
}

#define APPEND(line, text) append(line, text, sizeof(text) - 1)

static void
append_number(Line *line, long long number, int width)
{
    char digits[24];
    int place = sizeof digits;
    do {
        digits[--place] = (char)('0' + number % 10);
        number /= 10;
        width--;
    } while (number || width > 0);
    append(line, digits + place, (Py_ssize_t)sizeof digits - place);
}

static const char hexadecimal[] = "0123456789ABCDEF";

/* As CombinedFormat: a quote, a backslash and everything but printable ASCII become \xHH. */
static void
append_escaped(Line *line, Span text)
{
    for (; text.begin < text.end; text.begin++) {
        unsigned char byte = (unsigned char)*text.begin;
        if (IS(byte, PLAIN))
            *line->at++ = (char)byte;
        else {
            *line->at++ = '\\';
            *line->at++ = 'x';
            *line->at++ = hexadecimal[byte >> 4];
            *line->at++ = hexadecimal[byte & 15];
        }
    }
}

/* Takes a bytes object, or None; an empty value or none becomes `missing`. */
static int
take_value(PyObject *value, const char *missing, Span *span)
{
    char *text = NULL;
    Py_ssize_t size = 0;
    if (value != Py_None && PyBytes_AsStringAndSize(value, &text, &size) < 0)
        return -1;
    if (size)
        *span = (Span){text, text + size};
    else
        *span = (Span){missing, missing + strlen(missing)};
    return 0;
}

/* combined_line(client, second, target, minor, status, body_out, referer, user_agent) */
static PyObject *
combined_line(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count != 8) {
        PyErr_SetString(PyExc_TypeError, "combined_line takes 8 arguments");
        return NULL;
    }
    Span client, second, target, referer, agent;
    if (take_value(args[0], "-", &client) < 0 || take_value(args[1], "", &second) < 0 ||
        take_value(args[2], "", &target) < 0 || take_value(args[6], "-", &referer) < 0 ||
        take_value(args[7], "-", &agent) < 0)
        return NULL;
    int minor = PyObject_IsTrue(args[3]);
    long long status = PyLong_AsLongLong(args[4]), body_out = PyLong_AsLongLong(args[5]);
    if (PyErr_Occurred())
        return NULL;
    if (status < 0 || body_out < 0) {
        PyErr_SetString(PyExc_ValueError, "a negative number");
        return NULL;
    }
    Py_ssize_t most = 128 + 4 * (length_of(client) + length_of(second) + length_of(target) + length_of(referer) +
                                 length_of(agent));
    char fixed[2048], *room = most <= (Py_ssize_t)sizeof fixed ? fixed : PyMem_Malloc((size_t)most);
    if (room == NULL)
        return PyErr_NoMemory();
    Line line = {room};
    append_escaped(&line, client);
    APPEND(&line, " - - [");
    append_escaped(&line, second);
    APPEND(&line, "] \"GET ");
    append_escaped(&line, target);
    APPEND(&line, " HTTP/1.");
    append_number(&line, minor, 1);
    APPEND(&line, "\" ");
    append_number(&line, status, 3);
    APPEND(&line, " ");
    append_number(&line, body_out, 1);
    APPEND(&line, " \"");
    append_escaped(&line, referer);
    APPEND(&line, "\" \"");
    append_escaped(&line, agent);
    APPEND(&line, "\"\n");
    PyObject *made = PyBytes_FromStringAndSize(room, line.at - room);
    if (room != fixed)
        PyMem_Free(room);
    return made;
}

/* As encode_basestring_ascii of the json module, for bytes that stand for U+0000 to U+00FF. No value: null. */
static void
append_json(Line *line, Span text)
{
    if (!text.begin) {
        APPEND(line, "null");
        return;
    }
    *line->at++ = '"';
    for (; text.begin < text.end; text.begin++) {
        unsigned char byte = (unsigned char)*text.begin;
        if (IS(byte, PLAIN)) {
            *line->at++ = (char)byte;
            continue;
        }
        *line->at++ = '\\';
        switch (byte) {
        case '"':
        case '\\':
            *line->at++ = (char)byte;
            break;
        case '\n':
            *line->at++ = 'n';
            break;
        case '\r':
            *line->at++ = 'r';
            break;
        case '\t':
            *line->at++ = 't';
            break;
        case '\f':
            *line->at++ = 'f';
            break;
        case '\b':
            *line->at++ = 'b';
            break;
        default:
            APPEND(line, "u00");
            *line->at++ = "0123456789abcdef"[byte >> 4];
            *line->at++ = "0123456789abcdef"[byte & 15];
        }
    }
    *line->at++ = '"';
}

/* json_line(begin, target, minor, host, referer, user_agent, status, server, total, bytes_in, bytes_out, body_out) */
static PyObject *
json_line(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count != 12) {
        PyErr_SetString(PyExc_TypeError, "json_line takes 12 arguments");
        return NULL;
    }
    static const int texts[] = {0, 1, 3, 4, 5, 7};
    Span spans[8];
    Py_ssize_t most = 512;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        PyObject *value = args[texts[i]];
        char *text = NULL;
        Py_ssize_t size = 0;
        if (value != Py_None && PyBytes_AsStringAndSize(value, &text, &size) < 0)
            return NULL;
        spans[texts[i]] = (Span){text, text ? text + size : NULL};
        most += 6 * size;
    }
    long long numbers[4];
    static const int places[] = {6, 9, 10, 11};
    for (int i = 0; i < 4; i++)
        if ((numbers[i] = PyLong_AsLongLong(args[places[i]])) < 0) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "a negative number");
            return NULL;
        }
    int minor = PyObject_IsTrue(args[2]);
    double total = PyFloat_AsDouble(args[8]);
    if (PyErr_Occurred() || !spans[0].begin || !spans[7].begin)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "begin and server must be bytes");
    char *seconds = PyOS_double_to_string(total, 'f', 6, 0, NULL);
    if (seconds == NULL)
        return NULL;
    most += 2 * (Py_ssize_t)strlen(seconds);
    char fixed[4096], *room = most <= (Py_ssize_t)sizeof fixed ? fixed : PyMem_Malloc((size_t)most);
    if (room == NULL) {
        PyMem_Free(seconds);
        return PyErr_NoMemory();
    }
    Line line = {room};
    append(&line, spans[0].begin, length_of(spans[0]));
    APPEND(&line, ", \"method\": \"GET\", \"target\": ");
    append_json(&line, spans[1]);
    APPEND(&line, ", \"protocol\": \"HTTP/1.");
    append_number(&line, minor, 1);
    APPEND(&line, "\", \"host\": ");
    append_json(&line, spans[3]);
    APPEND(&line, ", \"referer\": ");
    append_json(&line, spans[4]);
    APPEND(&line, ", \"user_agent\": ");
    append_json(&line, spans[5]);
    APPEND(&line, ", \"status\": ");
    append_number(&line, numbers[0], 1);
    append(&line, spans[7].begin, length_of(spans[7]));
    APPEND(&line, ", \"connect\": 0.000000, \"first\": ");
    append(&line, seconds, (Py_ssize_t)strlen(seconds));
    APPEND(&line, ", \"total\": ");
    append(&line, seconds, (Py_ssize_t)strlen(seconds));
    PyMem_Free(seconds);
    APPEND(&line, ", \"bytes_in\": ");
    append_number(&line, numbers[1], 1);
    APPEND(&line, ", \"bytes_out\": ");
    append_number(&line, numbers[2], 1);
    APPEND(&line, ", \"body_out\": ");
    append_number(&line, numbers[3], 1);
    APPEND(&line, ", \"retries\": 0, \"reused\": true, \"ending\": \"answered\", \"error\": null}\n");
    PyObject *made = PyBytes_FromStringAndSize(room, line.at - room);
    if (room != fixed)
        PyMem_Free(room);
    return made;
}

/* Cookies. */

static int
is_blank(char byte)
{
    return byte == ' ' || byte == '\t';
}

static PyObject *
take_single_cookie(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    static const char line[] = "Cookie: ";
    const Py_ssize_t prefix = sizeof line - 1;
    (void)module;
    if (count != 2 || !PyBytes_Check(args[0]) || !PyBytes_Check(args[1]))
        return PyErr_Format(PyExc_TypeError, "take_single_cookie(lines, name) takes two bytes objects");
    const char *data = PyBytes_AS_STRING(args[0]), *all = data + PyBytes_GET_SIZE(args[0]);
    const char *name = PyBytes_AS_STRING(args[1]);
    size_t letters = (size_t)PyBytes_GET_SIZE(args[1]);
    const char *at = memmem(data, (size_t)(all - data), name, letters);
    if (!at)
        return PyTuple_Pack(2, Py_None, args[0]);
    const char *equals = at + letters, *begin = at;
    while (begin > data && begin[-1] != '\n')
        begin--;
    const char *end = memmem(at, (size_t)(all - at), "\r\n", 2);
    if (!end || at - begin < prefix || memcmp(begin, line, (size_t)prefix) != 0 || equals >= end || *equals != '=' ||
        memmem(equals, (size_t)(all - equals), name, letters))
        Py_RETURN_NONE;
    const char *start = begin + prefix, *before = at;
    while (before > start && is_blank(before[-1]))
        before--;
    if (before > start && *--before != ';')
        Py_RETURN_NONE;
    const char *semicolon = memchr(equals, ';', (size_t)(end - equals));
    const char *value_end = semicolon ? semicolon : end;
    const char *after = value_end;
    if (!semicolon)
        while (value_end > equals + 1 && is_blank(value_end[-1]))
            value_end--;
    /* What is left, [start, before) and [after, last), without what separates pairs at its ends. */
    const char *last = end;
    while (start < before && (*start == ';' || is_blank(*start)))
        start++;
    if (start == before)
        while (after < last && (*after == ';' || is_blank(*after)))
            after++;
    while (last > after && (last[-1] == ';' || is_blank(last[-1])))
        last--;
    if (last == after)
        while (before > start && (before[-1] == ';' || is_blank(before[-1])))
            before--;
    Py_ssize_t kept = before - start, rest = last - after;
    const char *next = kept + rest ? end : end + 2;
    Py_ssize_t head = (kept + rest ? begin + prefix : begin) - data;
    PyObject *without = PyBytes_FromStringAndSize(NULL, head + kept + rest + (all - next));
    if (!without)
        return NULL;
    char *to = PyBytes_AS_STRING(without);
    memcpy(to, data, (size_t)head);
    memcpy(to + head, start, (size_t)kept);
    memcpy(to + head + kept, after, (size_t)rest);
    memcpy(to + head + kept + rest, next, (size_t)(all - next));
    return Py_BuildValue("(y#N)", equals + 1, (Py_ssize_t)(value_end - equals - 1), without);
}

/* The ClientHello of TLS. Where the reader in Python would refuse it, wait for more, or have to look twice, the functions
 * here return NULL without an exception, and so leave it to that reader. */

enum { HANDSHAKE_RECORD = 22, CLIENT_HELLO = 1, MAX_RECORD = 16384, RECORD_HEADER = 5, HANDSHAKE_HEADER = 4 };
enum { SERVER_NAME = 0, ALPN = 16, SUPPORTED_VERSIONS = 43, ECH = 0xfe0d };
enum { MIN_BODY = 2 + 32 + 1 + 4 + 2, MIN_AFTER_SESSION = 4 + 2, MAX_SESSION_ID = 32 };
enum { MAX_NAME = 255, MAX_LABEL = 63, MAX_EXTENSIONS = 64 };

typedef struct {
    const unsigned char *at, *end;
} Input;

static Py_ssize_t
left_in(Input input)
{
    return input.end - input.at;
}

static unsigned
number_at(const unsigned char *at)
{
    return (unsigned)at[0] << 8 | at[1];
}

/* The content of a vector that fills the input; its length stands before it in one or two bytes. NULL in `at`: it does not
 * fill it, or is empty. */
static Input
vector_in(Input input, int length_bytes)
{
    Py_ssize_t left = left_in(input);
    if (left <= length_bytes ||
        (length_bytes == 1 ? input.at[0] : (Py_ssize_t)number_at(input.at)) != left - length_bytes)
        return (Input){NULL, NULL};
    return (Input){input.at + length_bytes, input.end};
}

static int
is_grease(unsigned value)
{
    return (value & 0x0f0f) == 0x0a0a && value >> 8 == (value & 0xff);
}

/* A list with one host name, of labels that are not all digits. */
static PyObject *
server_name_in(Input input)
{
    char name[MAX_NAME];
    Input list = vector_in(input, 2);
    if (list.at == NULL || left_in(list) < 4 || list.at[0] != 0 || number_at(list.at + 1) != (unsigned)left_in(list) - 3)
        return NULL;
    const unsigned char *at = list.at + 3;
    Py_ssize_t size = list.end - at, label = 0;
    if (size > MAX_NAME)
        return NULL;
    if (at[size - 1] == '.')
        size--;
    int has_letter = 0;
    for (Py_ssize_t i = 0; i < size; i++) {
        unsigned char byte = at[i];
        if (byte == '.') {
            if (label == 0)
                return NULL;
            label = has_letter = 0;
        }
        else {
            if (!(IS(byte, ALNUM) || byte == '-' || byte == '_') || ++label > MAX_LABEL)
                return NULL;
            has_letter |= byte < '0' || byte > '9';
        }
        name[i] = (char)(byte >= 'A' && byte <= 'Z' ? byte | 0x20 : byte);
    }
    if (label == 0 || !has_letter)
        return NULL;
    return PyUnicode_DecodeASCII(name, size, NULL);
}

static PyObject *
tuple_of(PyObject *list)
{
    PyObject *tuple = PyList_AsTuple(list);
    Py_DECREF(list);
    return tuple;
}

static PyObject *
protocols_in(Input input)
{
    Input list = vector_in(input, 2);
    PyObject *found = list.at == NULL ? NULL : PyList_New(0);
    if (found == NULL)
        return NULL;
    while (list.at < list.end) {
        Py_ssize_t size = *list.at++;
        int is_right = size > 0 && size <= left_in(list);
        if (is_right && !(size == 2 && is_grease(number_at(list.at)))) {
            PyObject *protocol = PyBytes_FromStringAndSize((const char *)list.at, size);
            is_right = protocol != NULL && PyList_Append(found, protocol) == 0;
            Py_XDECREF(protocol);
        }
        if (!is_right) {
            Py_DECREF(found);
            return NULL;
        }
        list.at += size;
    }
    return tuple_of(found);
}

static PyObject *
versions_in(Input input)
{
    Input list = vector_in(input, 1);
    PyObject *found = list.at == NULL || left_in(list) % 2 ? NULL : PyList_New(0);
    if (found == NULL)
        return NULL;
    for (; list.at < list.end; list.at += 2) {
        unsigned value = number_at(list.at);
        PyObject *version = is_grease(value) ? NULL : PyLong_FromLong((long)value);
        if (version != NULL)
            PyList_Append(found, version);
        Py_XDECREF(version);
        if (PyErr_Occurred()) {
            Py_DECREF(found);
            return NULL;
        }
    }
    return tuple_of(found);
}

/* What the extensions say; NULL: they do not occur. */
typedef struct {
    PyObject *name, *protocols, *versions;
    int has_ech;
} Offers;

/* Returns -1 without an exception where the hello is for the reader in Python. */
static int
read_extensions(Input input, Offers *offers)
{
    unsigned seen[MAX_EXTENSIONS];
    int count = 0;
    while (input.at < input.end) {
        if (left_in(input) < 4 || count == MAX_EXTENSIONS)
            return -1;
        unsigned kind = number_at(input.at), size = number_at(input.at + 2);
        if ((Py_ssize_t)size > left_in(input) - 4)
            return -1;
        Input data = {input.at + 4, input.at + 4 + size};
        for (int i = 0; i < count; i++)
            if (seen[i] == kind)
                return -1;
        seen[count++] = kind;
        input.at = data.end;
        if (kind == SERVER_NAME && (offers->name = server_name_in(data)) == NULL)
            return -1;
        if (kind == ALPN && (offers->protocols = protocols_in(data)) == NULL)
            return -1;
        if (kind == SUPPORTED_VERSIONS && (offers->versions = versions_in(data)) == NULL)
            return -1;
        if (kind == ECH) {
            if (left_in(data) == 0)
                return -1;
            offers->has_ech = *data.at == 0;
        }
    }
    return 0;
}

/* The extensions of a hello that fills one record, and its version. Returns -1 where it is for the reader in Python. */
static int
find_extensions(Input input, Input *extensions, unsigned *version)
{
    if (left_in(input) < RECORD_HEADER + HANDSHAKE_HEADER + MIN_BODY || input.at[0] != HANDSHAKE_RECORD || input.at[1] != 3)
        return -1;
    Py_ssize_t size = number_at(input.at + 3);
    const unsigned char *at = input.at + RECORD_HEADER;
    if (size > MAX_RECORD || size > input.end - at || size < HANDSHAKE_HEADER + MIN_BODY)
        return -1;
    const unsigned char *end = at + size;
    if (at[0] != CLIENT_HELLO || at[1] != 0 || number_at(at + 2) != size - HANDSHAKE_HEADER)
        return -1;
    at += HANDSHAKE_HEADER;
    *version = number_at(at);
    if (*version < 0x0300)
        return -1;
    at += 2 + 32;
    size = *at++;
    if (size > MAX_SESSION_ID || size > end - at - MIN_AFTER_SESSION)
        return -1;
    at += size;
    size = number_at(at);
    at += 2;
    if (size % 2 || size < 2 || size > end - at - 2)
        return -1;
    at += size;
    size = *at++;
    if (size < 1 || size > end - at || memchr(at, 0, (size_t)size) == NULL)
        return -1;
    at += size;
    *extensions = (Input){end, end};
    if (at == end)
        return 0;
    if (end - at < 2 || number_at(at) != end - at - 2)
        return -1;
    extensions->at = at + 2;
    return 0;
}

static PyObject *
scan_hello(PyObject *module, PyObject *data)
{
    Input input, extensions;
    unsigned version;
    Offers offers = {NULL, NULL, NULL, 0};
    PyObject *result = NULL;
    (void)module;
    if (!PyBytes_Check(data))
        return PyErr_Format(PyExc_TypeError, "scan_hello(data) takes a bytes object");
    input.at = (const unsigned char *)PyBytes_AS_STRING(data);
    input.end = input.at + PyBytes_GET_SIZE(data);
    if (find_extensions(input, &extensions, &version) == 0 && read_extensions(extensions, &offers) == 0) {
        if (offers.versions == NULL)
            offers.versions = Py_BuildValue("(I)", version < 0x0303 ? version : 0x0303);
        if (offers.protocols == NULL)
            offers.protocols = PyTuple_New(0);
        if (offers.versions != NULL && offers.protocols != NULL)
            result = Py_BuildValue("(OOOOn)", offers.name ? offers.name : Py_None, offers.protocols, offers.versions,
                                   offers.has_ech ? Py_True : Py_False,
                                   (Py_ssize_t)number_at(input.at + 3) + RECORD_HEADER);
    }
    Py_XDECREF(offers.name);
    Py_XDECREF(offers.protocols);
    Py_XDECREF(offers.versions);
    if (result == NULL && !PyErr_Occurred())
        Py_RETURN_NONE;
    return result;
}

static PyMethodDef functions[] = {
    {"take_single_cookie", (PyCFunction)(void (*)(void))take_single_cookie, METH_FASTCALL,
     "take_single_cookie(lines, name): see http1/cookies.py."},
    {"scan_response", scan_response, METH_O, "scan_response(data): see plain_python."},
    {"scan_hello", scan_hello, METH_O, "scan_hello(data): the fields of a ClientHello, or None: see client_hello."},
    {"combined_line", (PyCFunction)(void (*)(void))combined_line, METH_FASTCALL,
     "combined_line(client, second, target, minor, status, body_out, referer, user_agent): see access_log."},
    {"json_line", (PyCFunction)(void (*)(void))json_line, METH_FASTCALL,
     "json_line(begin, target, minor, host, referer, user_agent, status, server, total, bytes_in, bytes_out, body_out)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_compiled", "Compiled forms of functions of ktcpvs.protocols.", -1, functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__compiled(void)
{
    fill_tables();
    PyObject *module = PyModule_Create(&definition);
    PyObject *request = PyType_FromSpec(&request_spec), *scanner = PyType_FromSpec(&scanner_spec);
    get_method = PyBytes_FromString("GET");
    no_bytes = PyBytes_FromString("");
    if (!module || !request || !scanner || !get_method || !no_bytes)
        return NULL;
    request_type = (PyTypeObject *)request;
    Py_INCREF(request);
    if (PyModule_AddObject(module, "PlainRequest", request) < 0 ||
        PyModule_AddObject(module, "RequestScanner", scanner) < 0)
        return NULL;
    return module;
}
