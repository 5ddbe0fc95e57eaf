/* Messages: requests, responses and trailers from decoded fields, and the fields of heads in HTTP/1.1. What is unusual
 * is left to request.py, response.py and header_list.py. */

#ifndef KTCPVS_MESSAGES_H
#define KTCPVS_MESSAGES_H

#include "_hpack.h"

enum { Q_WHOLE, Q_AUTHORITY, Q_CRUMBS, Q_EXPECTS_CONTINUE, Q_HAS_TRAILERS, Q_LENGTH, Q_LINES, Q_METHOD, Q_PATH, Q_PROTOCOL,
       Q_SCHEME };
FIELDS(request, "_whole", "authority", "crumbs", "expects_continue", "has_trailers", "length", "lines", "method", "path",
       "protocol", "scheme");

enum { S_LENGTH, S_LINES, S_STATUS };
FIELDS(response, "length", "lines", "status");

static PyObject *no_bytes;

/* What fields of a received message are together. */
typedef struct {
    const Entry *pseudo[STATUS + 1]; /* by kind; NULL: missing */
    const Entry *host;
    size_t lines, cookies, crumbs; /* bytes of lines of HTTP/1; bytes of the values of Cookie, and their number */
    long long length;              /* -1: without Content-Length */
    int has_trailers;
} Sorted;

/* Sorts the fields. Returns 0 if they are unusual. allowed: kinds of pseudo-header fields, as bits. */
static int
sort_fields(const List *list, unsigned allowed, Sorted *sorted)
{
    int has_regular = 0;

    memset(sorted, 0, sizeof(*sorted));
    sorted->length = -1;
    if (list->is_too_large)
        return 0;
    for (Py_ssize_t i = 0; i < list->count; i++) {
        const Entry *entry = list->entries[i];
        switch ((Kind)entry->kind) {
        case METHOD_FIELD:
        case SCHEME:
        case AUTHORITY:
        case PATH:
        case STATUS:
            if (has_regular || sorted->pseudo[entry->kind] != NULL || !(allowed & 1u << entry->kind))
                return 0;
            sorted->pseudo[entry->kind] = entry;
            continue;
        case CONTENT_LENGTH:
            if (sorted->length >= 0)
                return 0;
            sorted->length = number_of(VALUE(entry), entry->value_length);
            /* fall through */
        case ORDINARY:
            sorted->lines += (size_t)entry->name_length + entry->value_length + 4;
            break;
        case COOKIE:
            sorted->crumbs++;
            sorted->cookies += entry->value_length;
            break;
        case HOST:
            if (sorted->host != NULL)
                return 0;
            sorted->host = entry;
            break;
        case TE:
            sorted->has_trailers = 1;
            break;
        case DROPPED:
            break;
        case UNUSUAL:
        default:
            return 0;
        }
        has_regular = 1;
    }
    return 1;
}

static inline unsigned char *
put_text(unsigned char *out, const void *text, size_t length)
{
    memcpy(out, text, length);
    return out + length;
}

#define PUT(out, literal) put_text(out, literal, sizeof(literal) - 1)

/* The ordinary fields as lines, the crumbs of Cookie as the last one. */
static PyObject *
lines_of(const List *list, const Sorted *sorted)
{
    size_t size = sorted->lines + (sorted->crumbs ? sorted->cookies + 2 * (sorted->crumbs - 1) + 10 : 0);
    PyObject *lines = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    unsigned char *out;
    int is_first = 1;

    if (lines == NULL)
        return NULL;
    out = (unsigned char *)PyBytes_AS_STRING(lines);
    for (Py_ssize_t i = 0; i < list->count; i++) {
        const Entry *entry = list->entries[i];
        if (entry->kind != ORDINARY && entry->kind != CONTENT_LENGTH)
            continue;
        out = put_text(out, NAME(entry), entry->name_length);
        *out++ = ':';
        *out++ = ' ';
        out = put_text(out, VALUE(entry), entry->value_length);
        *out++ = '\r';
        *out++ = '\n';
    }
    if (sorted->crumbs) {
        out = PUT(out, "cookie: ");
        for (Py_ssize_t i = 0; i < list->count; i++) {
            const Entry *entry = list->entries[i];
            if (entry->kind != COOKIE)
                continue;
            if (!is_first)
                out = PUT(out, "; ");
            is_first = 0;
            out = put_text(out, VALUE(entry), entry->value_length);
        }
        PUT(out, "\r\n");
    }
    return lines;
}

static inline PyObject *
value_of(const Entry *entry)
{
    return bytes_of(VALUE(entry), entry->value_length);
}

static inline int
value_is(const Entry *entry, const char *text)
{
    return is_text(VALUE(entry), entry->value_length, text);
}

static const char CHUNKED_LINE[] = "transfer-encoding: chunked\r\n", NO_LENGTH_LINE[] = "content-length: 0\r\n",
                  TE_LINES[] = "connection: te\r\nte: trailers\r\n";

/* A request's head in HTTP/1.1, as Request.head makes it. */
static PyObject *
request_head(const Sorted *sorted, const Entry *authority, PyObject *lines, int is_whole)
{
    const Entry *method = sorted->pseudo[METHOD_FIELD], *path = sorted->pseudo[PATH];
    const char *framing = "";
    const char *te = sorted->has_trailers ? TE_LINES : "";
    PyObject *head;
    unsigned char *out;

    if (sorted->length < 0) {
        if (!is_whole)
            framing = CHUNKED_LINE;
        else if (value_is(method, "POST") || value_is(method, "PUT") || value_is(method, "PATCH"))
            framing = NO_LENGTH_LINE;
    }
    head = PyBytes_FromStringAndSize(
        NULL, (Py_ssize_t)(method->value_length + path->value_length + authority->value_length + strlen(framing) + strlen(te) +
                           sizeof("  HTTP/1.1\r\nhost: \r\n\r\n") - 1) + PyBytes_GET_SIZE(lines));
    if (head == NULL)
        return NULL;
    out = (unsigned char *)PyBytes_AS_STRING(head);
    out = put_text(out, VALUE(method), method->value_length);
    *out++ = ' ';
    out = put_text(out, VALUE(path), path->value_length);
    out = PUT(out, " HTTP/1.1\r\nhost: ");
    out = put_text(out, VALUE(authority), authority->value_length);
    out = PUT(out, "\r\n");
    out = put_text(out, PyBytes_AS_STRING(lines), (size_t)PyBytes_GET_SIZE(lines));
    out = put_text(out, framing, strlen(framing));
    out = put_text(out, te, strlen(te));
    PUT(out, "\r\n");
    return head;
}

/* Makes the Request of a list and its head. Returns 1; 0 if the request is unusual; -1 with an exception. */
static int
make_request(const List *list, long long max_crumbs, int end_stream, PyObject **request, PyObject **head)
{
    Sorted sorted;
    const Entry *authority;
    PyObject *made, *lines;

    if (!sort_fields(list, 1u << METHOD_FIELD | 1u << SCHEME | 1u << AUTHORITY | 1u << PATH, &sorted))
        return 0;
    authority = sorted.pseudo[AUTHORITY];
    if (authority != NULL && sorted.host != NULL &&
        (authority->value_length != sorted.host->value_length ||
         memcmp(VALUE(authority), VALUE(sorted.host), authority->value_length) != 0))
        return 0;
    if (authority == NULL)
        authority = sorted.host;
    if (authority == NULL || sorted.pseudo[METHOD_FIELD] == NULL || sorted.pseudo[SCHEME] == NULL ||
        sorted.pseudo[PATH] == NULL || value_is(sorted.pseudo[METHOD_FIELD], "CONNECT") ||
        (long long)sorted.crumbs > max_crumbs || (end_stream && sorted.length > 0))
        return 0;
    lines = lines_of(list, &sorted);
    if (lines == NULL)
        return -1;
    *head = request_head(&sorted, authority, lines, end_stream);
    made = *head ? request_layout.type->tp_alloc(request_layout.type, 0) : NULL;
    if (made == NULL) {
        Py_DECREF(lines);
        Py_CLEAR(*head);
        return -1;
    }
    SLOT(made, request, Q_WHOLE) = Py_NewRef(end_stream ? *head : Py_None);
    SLOT(made, request, Q_EXPECTS_CONTINUE) = Py_NewRef(Py_False);
    SLOT(made, request, Q_HAS_TRAILERS) = Py_NewRef(sorted.has_trailers ? Py_True : Py_False);
    SLOT(made, request, Q_LINES) = lines;
    SLOT(made, request, Q_PROTOCOL) = Py_NewRef(no_bytes);
    SLOT(made, request, Q_CRUMBS) = PyLong_FromSize_t(sorted.crumbs);
    SLOT(made, request, Q_LENGTH) = sorted.length < 0 ? Py_NewRef(Py_None) : PyLong_FromLongLong(sorted.length);
    SLOT(made, request, Q_AUTHORITY) = value_of(authority);
    SLOT(made, request, Q_METHOD) = value_of(sorted.pseudo[METHOD_FIELD]);
    SLOT(made, request, Q_PATH) = value_of(sorted.pseudo[PATH]);
    SLOT(made, request, Q_SCHEME) = value_of(sorted.pseudo[SCHEME]);
    if (PyErr_Occurred()) {
        Py_DECREF(made);
        Py_CLEAR(*head);
        return -1;
    }
    *request = made;
    return 1;
}

/* Makes the Response of a list, which is a final one. Returns as make_request. */
static int
make_response(const List *list, PyObject **response)
{
    Sorted sorted;
    PyObject *made, *lines;
    const Entry *status;

    if (!sort_fields(list, 1u << STATUS, &sorted) || sorted.host != NULL || sorted.has_trailers || sorted.crumbs)
        return 0;
    status = sorted.pseudo[STATUS];
    if (status == NULL || VALUE(status)[0] == '1')
        return 0;
    lines = lines_of(list, &sorted);
    made = lines ? response_layout.type->tp_alloc(response_layout.type, 0) : NULL;
    if (made == NULL) {
        Py_XDECREF(lines);
        return -1;
    }
    SLOT(made, response, S_LINES) = lines;
    SLOT(made, response, S_LENGTH) = sorted.length < 0 ? Py_NewRef(Py_None) : PyLong_FromLongLong(sorted.length);
    SLOT(made, response, S_STATUS) = PyLong_FromLongLong(number_of(VALUE(status), 3));
    if (PyErr_Occurred()) {
        Py_DECREF(made);
        return -1;
    }
    *response = made;
    return 1;
}

/* Makes the lines of a trailer section. Returns as make_request. */
static int
make_trailers(const List *list, PyObject **lines)
{
    Sorted sorted;

    if (!sort_fields(list, 0, &sorted) || sorted.length >= 0 || sorted.host != NULL || sorted.has_trailers || sorted.crumbs)
        return 0;
    *lines = lines_of(list, &sorted);
    return *lines ? 1 : -1;
}

/* Heads in HTTP/1.1. */

enum { MAX_LINES = 96, MAX_CHUNKS = 32 };

typedef struct {
    Text name, value;
    size_t name_length, value_length;
} Line;

/* What a message in HTTP/1.1 consists of. */
typedef struct {
    Line lines[MAX_LINES]; /* those that go on, names in lower case */
    int line_count;
    size_t room;      /* bytes that they take in a block at most */
    long long length; /* -1: without Content-Length */
    int is_chunked, has_te;
    Line host;
    struct {
        Text at;
        size_t length;
    } pieces[MAX_CHUNKS]; /* the body */
    int piece_count;
    size_t size;         /* of the body */
    int trailers_begin;  /* the first of the lines that is a trailer */
} Message;

static inline int
is_word(Text text, size_t length, const char *word)
{
    return strlen(word) == length && strncasecmp((const char *)text, word, length) == 0;
}

/* Reads one line; returns where it ends, NULL if it is malformed. The name is written to `lowered`, in lower case. */
static Text
read_line(Text at, Text end, unsigned char **lowered, Line *line)
{
    unsigned char *name = *lowered;

    while (at < end && classes[*at] & IS_TOKEN)
        *name++ = lower[*at++];
    line->name = *lowered;
    line->name_length = (size_t)(name - *lowered);
    *lowered = name;
    if (!line->name_length || at == end || *at++ != ':')
        return NULL;
    while (at < end && (*at == ' ' || *at == '\t'))
        at++;
    line->value = at;
    while (at < end && classes[*at] & IS_TEXT)
        at++;
    line->value_length = (size_t)(at - line->value);
    while (line->value_length && (at[-1] == ' ' || at[-1] == '\t')) {
        at--;
        line->value_length--;
    }
    while (at < end && (*at == ' ' || *at == '\t'))
        at++;
    return end - at >= 2 && at[0] == '\r' && at[1] == '\n' ? at + 2 : NULL;
}

/* True if a Connection field names nothing else than these. */
static int
is_usual_connection(const Line *line)
{
    Text at = line->value, end = at + line->value_length;

    while (at < end) {
        Text begin = at;
        size_t length;
        while (at < end && *at != ',')
            at++;
        length = (size_t)(at - begin);
        if (at < end)
            at++;
        while (length && (*begin == ' ' || *begin == '\t')) {
            begin++;
            length--;
        }
        while (length && (begin[length - 1] == ' ' || begin[length - 1] == '\t'))
            length--;
        if (!is_word(begin, length, "keep-alive") && !is_word(begin, length, "close") && !is_word(begin, length, "te"))
            return 0;
    }
    return 1;
}

enum { LINE_UNUSUAL, LINE_DROPPED, LINE_KEPT };

/* What is done with a line of a head. */
static int
judge_line(const Line *line, Message *message, int is_request)
{
    Text name = line->name;
    size_t length = line->name_length;

    switch (length) {
    case 2:
        if (!is_text(name, length, "te"))
            break;
        if (!is_word(line->value, line->value_length, "trailers"))
            return LINE_UNUSUAL;
        message->has_te = 1;
        return LINE_DROPPED;
    case 4:
        if (!is_text(name, length, "host"))
            break;
        if (message->host.name_length)
            return LINE_UNUSUAL;
        message->host = *line;
        return LINE_DROPPED;
    case 6:
        if (is_request && is_text(name, length, "expect"))
            return LINE_UNUSUAL;
        break;
    case 7:
        if (is_text(name, length, "upgrade"))
            return LINE_UNUSUAL;
        break;
    case 10:
        if (is_text(name, length, "connection"))
            return is_usual_connection(line) ? LINE_DROPPED : LINE_UNUSUAL;
        if (is_text(name, length, "keep-alive"))
            return LINE_DROPPED;
        break;
    case 14:
        if (is_text(name, length, "http2-settings"))
            return LINE_DROPPED;
        if (is_text(name, length, "content-length")) {
            if (message->length >= 0)
                return LINE_UNUSUAL;
            message->length = number_of(line->value, line->value_length);
            return message->length >= 0 ? LINE_KEPT : LINE_UNUSUAL;
        }
        break;
    case 16:
        if (is_text(name, length, "proxy-connection"))
            return LINE_DROPPED;
        break;
    case 17:
        if (is_text(name, length, "transfer-encoding")) {
            if (message->is_chunked || !is_word(line->value, line->value_length, "chunked"))
                return LINE_UNUSUAL;
            message->is_chunked = 1;
            return LINE_DROPPED;
        }
        break;
    default:
        break;
    }
    return is_framing_name(name, length) ? LINE_UNUSUAL : LINE_KEPT;
}

/* Reads the lines of a head, with the empty one; returns where they end, NULL if something is unusual. */
static Text
read_lines(Text at, Text end, unsigned char **lowered, Message *message, int is_request)
{
    message->line_count = message->is_chunked = message->has_te = message->piece_count = 0;
    message->size = 0;
    message->room = UPDATES_ROOM + sizeof("tetrailers") + FIELD_ROOM;
    message->length = -1;
    message->host.name_length = 0;
    for (;;) {
        Line *line = &message->lines[message->line_count];
        if (end - at >= 2 && at[0] == '\r' && at[1] == '\n')
            break;
        if (message->line_count == MAX_LINES)
            return NULL;
        at = read_line(at, end, lowered, line);
        if (at == NULL)
            return NULL;
        switch (judge_line(line, message, is_request)) {
        case LINE_KEPT:
            message->room += line->name_length + line->value_length + FIELD_ROOM;
            message->line_count++;
            break;
        case LINE_DROPPED:
            break;
        default:
            return NULL;
        }
    }
    message->trailers_begin = message->line_count;
    return message->length >= 0 && message->is_chunked ? NULL : at + 2;
}

static int
add_piece(Message *message, Text at, size_t length)
{
    if (length) {
        if (message->piece_count == MAX_CHUNKS)
            return 0;
        message->pieces[message->piece_count].at = at;
        message->pieces[message->piece_count++].length = length;
        message->size += length;
    }
    return 1;
}

/* Reads a whole chunked body; returns 0 if it is no such, or unusual. Of trailers, only those of gRPC are usual: which
 * others go on is said in http1/body.py. */
static int
read_chunks(Text at, Text end, unsigned char **lowered, Message *message)
{
    for (;;) {
        size_t size = 0;
        Text begin = at;
        while (at < end && at - begin < 8 && (classes[*at] & IS_DIGIT || (lower[*at] >= 'a' && lower[*at] <= 'f'))) {
            size = size << 4 | (size_t)(classes[*at] & IS_DIGIT ? *at - '0' : lower[*at] - 'a' + 10);
            at++;
        }
        if (at == begin || end - at < 2 || at[0] != '\r' || at[1] != '\n')
            return 0;
        at += 2;
        if (!size)
            break;
        if (end - at < 2 || size > (size_t)(end - at) - 2 || at[size] != '\r' || at[size + 1] != '\n' || !add_piece(message, at, size))
            return 0;
        at += size + 2;
    }
    while (!(end - at == 2 && at[0] == '\r' && at[1] == '\n')) {
        Line *line = &message->lines[message->line_count];
        if (message->line_count == MAX_LINES)
            return 0;
        at = read_line(at, end, lowered, line);
        if (at == NULL || line->name_length < 5 || memcmp(line->name, "grpc-", 5) != 0)
            return 0;
        message->room += line->name_length + line->value_length + FIELD_ROOM;
        message->line_count++;
    }
    return 1;
}

/* Reads the body behind a head, which must end with it. has_body: a response with another method or status has none,
 * whatever its fields say. */
static int
read_body(Text at, Text end, unsigned char **lowered, Message *message, int has_body)
{
    if (!has_body)
        return at == end;
    if (message->is_chunked)
        return read_chunks(at, end, lowered, message);
    if (message->length != end - at)
        return 0;
    return add_piece(message, at, (size_t)(end - at));
}

static int
put_lines(Encoder *encoder, Block *block, const Line *line, int count)
{
    for (; count > 0; count--, line++) {
        int is_sensitive = (line->name_length == 13 && memcmp(line->name, "authorization", 13) == 0) ||
                           (line->name_length == 19 && memcmp(line->name, "proxy-authorization", 19) == 0);
        if (put_field(encoder, block, line->name, line->name_length, line->value, line->value_length, is_sensitive) < 0)
            return -1;
    }
    return 0;
}

/* Writes lines of HTTP/1 without those of Content-Length, unless `out` is NULL; returns how many bytes those are. */
static size_t
put_without_length(unsigned char *out, PyObject *lines)
{
    static const char name[] = "content-length:";
    const char *at = PyBytes_AS_STRING(lines), *end = at + PyBytes_GET_SIZE(lines);
    size_t size = 0;

    while (at < end) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        size_t length = (size_t)((line_end == NULL ? end : line_end + 1) - at);
        if (length < sizeof(name) || memcmp(at, name, sizeof(name) - 1) != 0) {
            if (out != NULL)
                memcpy(out + size, at, length);
            size += length;
        }
        at += length;
    }
    return size;
}

/* A whole response in HTTP/1.1, as Response.message makes it. */
static PyObject *
response_message(PyObject *response, int has_body, PyObject *const *contents, Py_ssize_t count, PyObject *trailers)
{
    PyObject *lines = SLOT(response, response, S_LINES), *message;
    int has_length = SLOT(response, response, S_LENGTH) != Py_None, needs_framing = has_body && !has_length;
    int is_chunked = has_body && trailers != NULL && PyBytes_GET_SIZE(trailers) > 0; /* no trailers follow a length */
    size_t lines_size;
    char begin[64], framing[64], chunk[32];
    int begin_size, framing_size = 0, chunk_size = 0;
    Py_ssize_t content_size = 0;
    unsigned char *out;

    for (Py_ssize_t i = 0; i < count; i++)
        content_size += PyBytes_GET_SIZE(contents[i]);
    lines_size = is_chunked && has_length ? put_without_length(NULL, lines) : (size_t)PyBytes_GET_SIZE(lines);
    begin_size = snprintf(begin, sizeof(begin), "HTTP/1.1 %ld \r\n", PyLong_AsLong(SLOT(response, response, S_STATUS)));
    if (is_chunked) {
        framing_size = snprintf(framing, sizeof(framing), "%s\r\n", CHUNKED_LINE);
        if (content_size)
            chunk_size = snprintf(chunk, sizeof(chunk), "%zx\r\n", (size_t)content_size);
    }
    else if (needs_framing)
        framing_size = snprintf(framing, sizeof(framing), "content-length: %zd\r\n\r\n", content_size);
    else
        framing_size = snprintf(framing, sizeof(framing), "\r\n");
    message = PyBytes_FromStringAndSize(
        NULL, begin_size + (Py_ssize_t)lines_size + framing_size + content_size + chunk_size +
                  (is_chunked ? (chunk_size ? 2 : 0) + 5 + PyBytes_GET_SIZE(trailers) : 0));
    if (message == NULL)
        return NULL;
    out = (unsigned char *)PyBytes_AS_STRING(message);
    out = put_text(out, begin, (size_t)begin_size);
    if (is_chunked && has_length)
        out += put_without_length(out, lines);
    else
        out = put_text(out, PyBytes_AS_STRING(lines), lines_size);
    out = put_text(out, framing, (size_t)framing_size);
    out = put_text(out, chunk, (size_t)chunk_size);
    for (Py_ssize_t i = 0; i < count; i++)
        out = put_text(out, PyBytes_AS_STRING(contents[i]), (size_t)PyBytes_GET_SIZE(contents[i]));
    if (is_chunked) {
        if (chunk_size)
            out = PUT(out, "\r\n");
        out = PUT(out, "0\r\n");
        out = put_text(out, PyBytes_AS_STRING(trailers), (size_t)PyBytes_GET_SIZE(trailers));
        PUT(out, "\r\n");
    }
    return message;
}

#endif
