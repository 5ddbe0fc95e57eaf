/* Header compression (RFC 7541): what hpack_decoder.py and hpack_encoder.py do, in C, with the checks of fields.py for
 * the fields that ordinary messages have. */

#ifndef KTCPVS_HPACK_H
#define KTCPVS_HPACK_H

#include "../../_configuration.h"
#include "_huffman.h"
#include <string.h>
#include <strings.h>

enum { OVERHEAD = 32, FIRST_DYNAMIC = 62, STATIC_NAMES = 64, DEFAULT_TABLE_SIZE = 4096, MAX_INTEGER_BYTES = 4,
       MAX_TABLE_UPDATES = 8, MAX_REMEMBERED = 16, MAX_REMEMBERED_BYTES = 512, MAX_REMEMBERED_LIST = 4096, MAX_SEEN = 128, SEEN_PLACES = 256 };

typedef const unsigned char *Text;

/* Characters. */

enum { IS_TOKEN = 1, IS_UPPER = 2, IS_TEXT = 4, IS_TARGET = 8, IS_LABEL = 16, IS_DIGIT = 32 };

static uint8_t classes[256];
static uint8_t lower[256];

static void
make_classes(void)
{
    for (int c = 0; c < 256; c++) {
        int is_upper = c >= 'A' && c <= 'Z', is_digit = c >= '0' && c <= '9';
        int is_word = is_upper || is_digit || (c >= 'a' && c <= 'z');
        lower[c] = (uint8_t)(is_upper ? c + 32 : c);
        classes[c] = (uint8_t)((is_word || (c && strchr("!#$%&'*+-.^_`|~", c)) ? IS_TOKEN : 0) | (is_upper ? IS_UPPER : 0) |
                               (c == '\t' || (c >= ' ' && c != 127) ? IS_TEXT : 0) |
                               (c > ' ' && c != '"' && c != '#' && c != 127 ? IS_TARGET : 0) |
                               (is_word || c == '-' || c == '_' || c == '~' ? IS_LABEL : 0) | (is_digit ? IS_DIGIT : 0));
    }
}

static int
all_are(Text text, size_t length, int class)
{
    for (size_t i = 0; i < length; i++)
        if (!(classes[text[i]] & class))
            return 0;
    return 1;
}

static inline int
is_text(Text text, size_t length, const char *other)
{
    return strlen(other) == length && memcmp(text, other, length) == 0;
}

/* True for names with ASCII letters only, a host name with or without a port. Other forms, such as addresses of IPv6, are
 * left to Python. */
static int
is_usual_host(Text host, size_t length)
{
    size_t i = 0;

    while (i < length && classes[host[i]] & IS_LABEL) {
        while (i < length && classes[host[i]] & IS_LABEL)
            i++;
        if (i < length && host[i] == '.')
            i++;
        else
            break;
    }
    if (i == 0)
        return 0;
    if (i < length && host[i] == ':') {
        if (length - i > 6 || !all_are(host + i + 1, length - i - 1, IS_DIGIT))
            return 0;
        i = length;
    }
    return i == length;
}

/* A number as Content-Length may have it; -1 for any other text. */
static long long
number_of(Text text, size_t length)
{
    long long number = 0;

    if (length < 1 || length > 18 || !all_are(text, length, IS_DIGIT) || (text[0] == '0' && length > 1))
        return -1;
    for (size_t i = 0; i < length; i++)
        number = number * 10 + (text[i] - '0');
    return number;
}

/* True for a name that programs take for Content-Length or Transfer-Encoding, or that is one of them. */
static int
is_framing_name(Text name, size_t length)
{
    return (length == 14 && memcmp(name, "content", 7) == 0 && memcmp(name + 8, "length", 6) == 0) ||
           (length == 17 && memcmp(name, "transfer", 8) == 0 && memcmp(name + 9, "encoding", 8) == 0);
}

/* Fields. */

typedef enum { UNUSUAL, ORDINARY, METHOD_FIELD, SCHEME, AUTHORITY, PATH, STATUS, HOST, COOKIE, CONTENT_LENGTH, TE,
               DROPPED } Kind;

typedef struct {
    uint32_t references;
    uint8_t kind;
    uint32_t name_length, value_length;
    uint32_t hash; /* of the whole field; only the encoder has it */
    PyObject *field; /* a Field of fields.py; NULL until it is needed */
    unsigned char text[]; /* the name, then the value */
} Entry;

#define NAME(entry) ((entry)->text)
#define VALUE(entry) ((entry)->text + (entry)->name_length)
#define SIZE(entry) ((Py_ssize_t)(entry)->name_length + (Py_ssize_t)(entry)->value_length + OVERHEAD)

static Entry *static_entries[FIRST_DYNAMIC]; /* there is no index 0 */

static Entry *
new_entry(Text name, size_t name_length, Text value, size_t value_length)
{
    Entry *entry = PyMem_Malloc(sizeof(Entry) + name_length + value_length);
    if (entry == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    entry->references = 1;
    entry->kind = UNUSUAL;
    entry->hash = 0;
    entry->field = NULL;
    entry->name_length = (uint32_t)name_length;
    entry->value_length = (uint32_t)value_length;
    memcpy(entry->text, name, name_length);
    memcpy(entry->text + name_length, value, value_length);
    return entry;
}

static inline void
release(Entry *entry)
{
    if (--entry->references == 0) {
        Py_XDECREF(entry->field);
        PyMem_Free(entry);
    }
}

static Kind
pseudo_kind(Text name, size_t length, Text value, size_t value_length)
{
    if (is_text(name, length, ":path"))
        return value_length && value[0] == '/' && all_are(value, value_length, IS_TARGET) ? PATH : UNUSUAL;
    if (is_text(name, length, ":method"))
        return value_length && value_length <= 64 && all_are(value, value_length, IS_TOKEN) ? METHOD_FIELD : UNUSUAL;
    if (is_text(name, length, ":authority"))
        return is_usual_host(value, value_length) ? AUTHORITY : UNUSUAL;
    if (is_text(name, length, ":scheme"))
        return is_text(value, value_length, "http") || is_text(value, value_length, "https") ? SCHEME : UNUSUAL;
    if (is_text(name, length, ":status"))
        return value_length == 3 && value[0] != '0' && all_are(value, 3, IS_DIGIT) ? STATUS : UNUSUAL;
    return UNUSUAL;
}

/* What a field of a received message is; UNUSUAL for what is malformed, rare, or special in a way that only Python
 * handles. */
static Kind
kind_of(Text name, size_t length, Text value, size_t value_length)
{
    if (length == 0 || !all_are(value, value_length, IS_TEXT))
        return UNUSUAL;
    if (value_length) {
        unsigned char first = value[0], last = value[value_length - 1];
        if (first == ' ' || first == '\t' || last == ' ' || last == '\t')
            return UNUSUAL;
    }
    if (name[0] == ':')
        return pseudo_kind(name, length, value, value_length);
    for (size_t i = 0; i < length; i++)
        if ((classes[name[i]] & (IS_TOKEN | IS_UPPER)) != IS_TOKEN)
            return UNUSUAL;
    switch (length) {
    case 2:
        if (is_text(name, length, "te"))
            return value_length == 8 && strncasecmp((const char *)value, "trailers", 8) == 0 ? TE : UNUSUAL;
        break;
    case 4:
        if (is_text(name, length, "host"))
            return is_usual_host(value, value_length) ? HOST : UNUSUAL;
        break;
    case 6:
        if (is_text(name, length, "cookie"))
            return COOKIE;
        if (is_text(name, length, "expect"))
            return UNUSUAL;
        break;
    case 7:
        if (is_text(name, length, "upgrade"))
            return UNUSUAL;
        break;
    case 10:
        if (is_text(name, length, "connection") || is_text(name, length, "keep-alive"))
            return UNUSUAL;
        break;
    case 14:
        if (is_text(name, length, "http2-settings"))
            return DROPPED;
        if (is_text(name, length, "content-length"))
            return number_of(value, value_length) >= 0 ? CONTENT_LENGTH : UNUSUAL;
        break;
    case 16:
        if (is_text(name, length, "proxy-connection"))
            return UNUSUAL;
        break;
    default:
        break;
    }
    return is_framing_name(name, length) ? UNUSUAL : ORDINARY;
}

/* A list of fields that was decoded. */

enum { FEW_FIELDS = 48 };

typedef struct {
    Entry **entries; /* with a reference to each */
    uint8_t *is_sensitive;
    Py_ssize_t count, room, size;
    int is_too_large, has_sensitive, has_changed_table;
    Entry *few_entries[FEW_FIELDS];
    uint8_t few_sensitive[FEW_FIELDS];
} List;

static void
open_list(List *list)
{
    list->entries = list->few_entries;
    list->is_sensitive = list->few_sensitive;
    list->room = FEW_FIELDS;
    list->count = list->size = 0;
    list->is_too_large = list->has_sensitive = list->has_changed_table = 0;
}

static void
empty_list(List *list)
{
    for (Py_ssize_t i = 0; i < list->count; i++)
        release(list->entries[i]);
    list->count = 0;
}

static void
close_list(List *list)
{
    empty_list(list);
    if (list->entries != list->few_entries) {
        PyMem_Free(list->entries);
        PyMem_Free(list->is_sensitive);
    }
}

static int
grow_list(List *list)
{
    Py_ssize_t room = list->room * 2;
    Entry **entries = PyMem_Malloc((size_t)room * sizeof(Entry *));
    uint8_t *is_sensitive = PyMem_Malloc((size_t)room);

    if (entries == NULL || is_sensitive == NULL) {
        PyMem_Free(entries);
        PyMem_Free(is_sensitive);
        PyErr_NoMemory();
        return -1;
    }
    memcpy(entries, list->entries, (size_t)list->count * sizeof(Entry *));
    memcpy(is_sensitive, list->is_sensitive, (size_t)list->count);
    if (list->entries != list->few_entries) {
        PyMem_Free(list->entries);
        PyMem_Free(list->is_sensitive);
    }
    list->entries = entries;
    list->is_sensitive = is_sensitive;
    list->room = room;
    return 0;
}

/* The dynamic table, of a decoder or an encoder: oldest entries first. */

typedef struct {
    Entry **entries;
    Py_ssize_t begin, end, room, size, max_size;
} Table;

static void
evict(Table *table, Py_ssize_t most)
{
    while (table->size > most && table->begin < table->end) {
        Entry *entry = table->entries[table->begin++];
        table->size -= SIZE(entry);
        release(entry);
    }
}

/* Adds an entry (RFC 7541, section 4.4): one that is too large empties the table. Takes a reference of its own. */
static int
add_entry(Table *table, Entry *entry)
{
    Py_ssize_t size = SIZE(entry);

    evict(table, table->max_size - size);
    if (size > table->max_size)
        return 0;
    if (table->end == table->room) {
        if (table->begin > table->room / 2) {
            memmove(table->entries, table->entries + table->begin,
                    (size_t)(table->end - table->begin) * sizeof(Entry *));
            table->end -= table->begin;
            table->begin = 0;
        }
        else {
            Py_ssize_t room = table->room ? table->room * 2 : 8;
            Entry **entries = PyMem_Realloc(table->entries, (size_t)room * sizeof(Entry *));
            if (entries == NULL) {
                PyErr_NoMemory();
                return -1;
            }
            table->entries = entries;
            table->room = room;
        }
    }
    entry->references++;
    table->entries[table->end++] = entry;
    table->size += size;
    return 0;
}

static void
free_table(Table *table)
{
    evict(table, -1);
    PyMem_Free(table->entries);
}

/* The decoder. */

static PyObject *hpack_error, *section_type, *make_field, *no_names;

/* What a block means until the table changes. */
typedef struct {
    PyObject *block;     /* NULL: nothing */
    PyObject *meaning;   /* a Request, a Response, the lines of trailers, or a FieldSection */
    PyObject *head;      /* of a Request, for this end_stream */
    PyObject *sensitive;
    int end_stream;
} Known;

typedef struct {
    PyObject_HEAD
    Table table;
    Py_ssize_t limit, max_list_size, max_fields;
    Known *known; /* NULL: nothing is remembered yet */
    int known_count;
} Decoder;

static void
forget(Decoder *self)
{
    for (int i = 0; i < self->known_count; i++) {
        Known *known = &self->known[i];
        Py_CLEAR(known->block);
        Py_CLEAR(known->meaning);
        Py_CLEAR(known->head);
        Py_CLEAR(known->sensitive);
    }
    self->known_count = 0;
}

static Known *
find_known(Decoder *self, Text block, Py_ssize_t length, PyTypeObject *type, int end_stream)
{
    for (int i = 0; i < self->known_count; i++) {
        Known *known = &self->known[i];
        if (PyBytes_GET_SIZE(known->block) == length && memcmp(PyBytes_AS_STRING(known->block), block, (size_t)length) == 0 &&
            Py_IS_TYPE(known->meaning, type) && known->end_stream == end_stream)
            return known;
    }
    return NULL;
}

/* Remembers what a block means; a failure to do so is no error. A short block can mean a long list. */
static void
remember(Decoder *self, Text block, Py_ssize_t length, const List *list, PyObject *meaning, PyObject *head,
         PyObject *sensitive, int end_stream)
{
    PyObject *copy;

    if (length > MAX_REMEMBERED_BYTES || list->size > MAX_REMEMBERED_LIST || list->has_changed_table || list->is_too_large)
        return;
    if (self->known == NULL) {
        self->known = PyMem_Calloc(MAX_REMEMBERED, sizeof(Known));
        if (self->known == NULL)
            return;
    }
    if (self->known_count == MAX_REMEMBERED)
        forget(self);
    copy = PyBytes_FromStringAndSize((const char *)block, length);
    if (copy == NULL) {
        PyErr_Clear();
        return;
    }
    self->known[self->known_count++] =
        (Known){copy, Py_NewRef(meaning), Py_XNewRef(head), Py_NewRef(sensitive), end_stream};
}

/* The errors of blocks; each returns -1. */
static int
cut_off(void)
{
    PyErr_SetString(hpack_error, "a field block is cut off, or has an index that is in no table");
    return -1;
}

/* Reads an integer (RFC 7541, section 5.1); prefix: the mask of its first byte. */
static int
read_integer(Text *at, Text end, unsigned prefix, size_t *number)
{
    Text p = *at;

    *number = *p++ & prefix;
    if (*number == prefix) {
        for (unsigned shift = 0;; shift += 7) {
            if (shift == 7 * MAX_INTEGER_BYTES) {
                PyErr_Format(hpack_error, "an integer has more than %d bytes", MAX_INTEGER_BYTES);
                return -1;
            }
            if (p == end)
                return cut_off();
            *number += (size_t)(*p & 0x7F) << shift;
            if (*p++ < 0x80)
                break;
        }
    }
    *at = p;
    return 0;
}

/* Space for a string that is decoded, which all decoders use in turn. */
static unsigned char *scratch[2];
static size_t scratch_room[2];

static unsigned char *
scratch_of(int which, size_t room)
{
    if (room > scratch_room[which]) {
        unsigned char *larger = PyMem_Realloc(scratch[which], room);
        if (larger == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        scratch[which] = larger;
        scratch_room[which] = room;
    }
    return scratch[which];
}

/* Reads a string (RFC 7541, section 5.2). It stays valid until the next string is read into the same scratch. */
static int
read_string(Text *at, Text end, int which, Text *text, size_t *length)
{
    unsigned char first;

    if (*at == end)
        return cut_off();
    first = **at;
    if (read_integer(at, end, 0x7F, length) < 0)
        return -1;
    if (*length > (size_t)(end - *at)) {
        PyErr_SetString(hpack_error, "a string is longer than the rest of its field block");
        return -1;
    }
    *text = *at;
    *at += *length;
    if (first & 0x80) {
        unsigned char *out = scratch_of(which, decoded_room(*length));
        Py_ssize_t decoded;
        if (out == NULL)
            return -1;
        decoded = huffman_decode(*text, *length, out);
        if (decoded < 0) {
            PyErr_SetString(hpack_error, "a string has a malformed Huffman code");
            return -1;
        }
        *text = out;
        *length = (size_t)decoded;
    }
    return 0;
}

/* The entry of an index; NULL with an error if there is none. */
static inline Entry *
entry_at(const Table *table, size_t index)
{
    if (index > 0 && index < FIRST_DYNAMIC)
        return static_entries[index];
    if (index == 0 || index - FIRST_DYNAMIC >= (size_t)(table->end - table->begin)) {
        cut_off();
        return NULL;
    }
    return table->entries[table->end - 1 - (Py_ssize_t)(index - FIRST_DYNAMIC)];
}

/* Reads a literal; returns a new reference. */
static Entry *
read_literal(Decoder *self, Text *at, Text end)
{
    Text name, value;
    size_t index, name_length, value_length;
    Entry *entry;

    if (read_integer(at, end, **at & 0x40 ? 0x3F : 0x0F, &index) < 0)
        return NULL;
    if (index) {
        Entry *named = entry_at(&self->table, index);
        if (named == NULL)
            return NULL;
        name = NAME(named);
        name_length = named->name_length;
    }
    else if (read_string(at, end, 0, &name, &name_length) < 0)
        return NULL;
    if (read_string(at, end, 1, &value, &value_length) < 0)
        return NULL;
    entry = new_entry(name, name_length, value, value_length);
    if (entry != NULL)
        entry->kind = (uint8_t)kind_of(name, name_length, value, value_length);
    return entry;
}

/* Reads changes of the table's size at the beginning of a block. */
static int
read_updates(Decoder *self, Text *at, Text end)
{
    for (int changes = 1; *at < end && (**at & 0xE0) == 0x20; changes++) {
        size_t size;
        if (read_integer(at, end, 0x1F, &size) < 0)
            return -1;
        if (size > (size_t)self->limit || changes > MAX_TABLE_UPDATES) {
            PyErr_Format(hpack_error, "the table's size is changed too often, or to more than %zd bytes", self->limit);
            return -1;
        }
        self->table.max_size = (Py_ssize_t)size;
        evict(&self->table, (Py_ssize_t)size);
    }
    return 0;
}

/* Decodes a block into an open list. Returns -1 with an HPACKError. If the fields are more than the limits allow, the
 * list has none of them, but the table is in step with the peer's. */
static int
decode_block(Decoder *self, Text block, Py_ssize_t length, List *list)
{
    Text at = block, end = block + length;

    if (read_updates(self, &at, end) < 0)
        return -1;
    list->has_changed_table = at > block;
    while (at < end) {
        unsigned char byte = *at;
        int is_sensitive = 0;
        Entry *entry;
        if (byte > 0x80) {
            size_t index;
            if (read_integer(&at, end, 0x7F, &index) < 0)
                return -1;
            entry = entry_at(&self->table, index);
            if (entry == NULL)
                return -1;
            entry->references++;
        }
        else if (byte == 0x80 || (byte & 0xE0) == 0x20) {
            PyErr_SetString(hpack_error, "a change of the table's size behind a field, or index 0");
            return -1;
        }
        else {
            entry = read_literal(self, &at, end);
            if (entry == NULL)
                return -1;
            if (byte >= 0x40) {
                list->has_changed_table = 1;
                if (add_entry(&self->table, entry) < 0) {
                    release(entry);
                    return -1;
                }
            }
            else
                is_sensitive = byte >= 0x10;
        }
        list->size += SIZE(entry);
        if (list->is_too_large || list->size > self->max_list_size || list->count >= self->max_fields) {
            list->is_too_large = 1;
            release(entry);
            empty_list(list);
            continue; /* to keep the table in step */
        }
        if (list->count == list->room && grow_list(list) < 0) {
            release(entry);
            return -1;
        }
        list->is_sensitive[list->count] = (uint8_t)is_sensitive;
        list->has_sensitive |= is_sensitive;
        list->entries[list->count++] = entry;
    }
    return 0;
}

static PyObject *
bytes_of(Text text, size_t length)
{
    return PyBytes_FromStringAndSize((const char *)text, (Py_ssize_t)length);
}

/* The entry as a Field; a new reference. */
static PyObject *
field_of(Entry *entry)
{
    if (entry->field == NULL) {
        PyObject *name = bytes_of(NAME(entry), entry->name_length);
        PyObject *value = name ? bytes_of(VALUE(entry), entry->value_length) : NULL;
        PyObject *field = value ? PyObject_CallFunctionObjArgs(make_field, name, value, NULL) : NULL;
        Py_XDECREF(name);
        Py_XDECREF(value);
        if (field == NULL)
            return NULL;
        Py_XSETREF(entry->field, field);
    }
    return Py_NewRef(entry->field);
}

/* The names of the fields that must never enter a table, as a frozenset. */
static PyObject *
sensitive_names(const List *list)
{
    PyObject *names;

    if (!list->has_sensitive || list->is_too_large)
        return Py_NewRef(no_names);
    names = PyFrozenSet_New(NULL);
    for (Py_ssize_t i = 0; names != NULL && i < list->count; i++) {
        PyObject *name;
        if (!list->is_sensitive[i])
            continue;
        name = bytes_of(NAME(list->entries[i]), list->entries[i]->name_length);
        if (name == NULL || PySet_Add(names, name) < 0)
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

/* The list as a FieldSection. */
static PyObject *
section_of(const List *list, PyObject *sensitive)
{
    PyObject *section, *fields = PyTuple_New(list->count);

    for (Py_ssize_t i = 0; fields != NULL && i < list->count; i++) {
        PyObject *field = field_of(list->entries[i]);
        if (field == NULL)
            Py_CLEAR(fields);
        else
            PyTuple_SET_ITEM(fields, i, field);
    }
    if (fields == NULL)
        return NULL;
    section = PyObject_CallFunctionObjArgs(section_type, fields, sensitive, list->is_too_large ? Py_True : Py_False, NULL);
    Py_DECREF(fields);
    return section;
}

PyDoc_STRVAR(decode_doc, "Return the fields of a block, as a FieldSection. Raises HPACKError.");

static PyObject *
decoder_decode(Decoder *self, PyObject *block)
{
    List list;
    PyObject *section = NULL, *sensitive;
    Known *known;
    Text data;
    Py_ssize_t length;

    if (!PyBytes_Check(block)) {
        PyErr_SetString(PyExc_TypeError, "a block must be bytes");
        return NULL;
    }
    data = (Text)PyBytes_AS_STRING(block);
    length = PyBytes_GET_SIZE(block);
    known = find_known(self, data, length, (PyTypeObject *)section_type, 0);
    if (known != NULL)
        return Py_NewRef(known->meaning);
    open_list(&list);
    if (decode_block(self, data, length, &list) < 0)
        forget(self); /* the table may have changed before the error */
    else {
        if (list.has_changed_table)
            forget(self);
        sensitive = sensitive_names(&list);
        if (sensitive != NULL) {
            section = section_of(&list, sensitive);
            if (section != NULL)
                remember(self, data, length, &list, section, NULL, sensitive, 0);
            Py_DECREF(sensitive);
        }
    }
    close_list(&list);
    return section;
}

static PyObject *
decoder_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"max_list_size", "max_fields", "table_size", NULL};
    Py_ssize_t max_list_size, max_fields, table_size = DEFAULT_TABLE_SIZE;
    Decoder *self;

    if (section_type == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the decoder is not configured");
        return NULL;
    }
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "nn|n:Decoder", names, &max_list_size, &max_fields, &table_size))
        return NULL;
    self = (Decoder *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->table.max_size = self->limit = table_size;
        self->max_list_size = max_list_size;
        self->max_fields = max_fields;
    }
    return (PyObject *)self;
}

static void
decoder_dealloc(Decoder *self)
{
    forget(self);
    PyMem_Free(self->known);
    free_table(&self->table);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef decoder_methods[] = {
    {"decode", METHOD(decoder_decode), METH_O, decode_doc},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject decoder_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "ktcpvs.protocols.http2._compiled.Decoder",
    .tp_basicsize = sizeof(Decoder),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = PyDoc_STR("The decoding context of one connection."),
    .tp_new = decoder_new,
    .tp_dealloc = (destructor)decoder_dealloc,
    .tp_methods = decoder_methods,
};

/* The encoder. */

typedef struct {
    PyObject_HEAD
    Table table;
    long updates[2]; /* changes of the size that the peer must be told */
    int update_count;
    uint32_t *seen; /* hashes of fields that were sent once; 0: a free place. NULL: none was sent yet */
    int seen_count, seen_places;
    PyObject *known; /* header list -> block; NULL: none is remembered yet */
} Encoder;

/* Space for a block. */
typedef struct {
    unsigned char *at;
    int is_settled; /* the next block of the same fields will be the same */
} Block;

/* The most bytes that fields take in a block, besides their names and values: two lengths and an index. */
enum { FIELD_ROOM = 15 };

static inline uint32_t
hash_of(Text text, size_t length, uint32_t before)
{
    uint64_t hash = before ^ (length * 0x9E3779B97F4A7C15u);

    while (length >= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        hash = (hash ^ word) * 0x9FB21C651E98DF25u;
        hash ^= hash >> 32;
        text += 8;
        length -= 8;
    }
    if (length) {
        uint64_t word = 0;
        memcpy(&word, text, length);
        hash = (hash ^ word) * 0x9FB21C651E98DF25u;
        hash ^= hash >> 32;
    }
    return (uint32_t)(hash ^ hash >> 32);
}

static uint8_t static_places[256]; /* hash of a name -> the first index with that name, with open addressing */

static int
static_index(Text name, size_t length, uint32_t hash)
{
    for (uint32_t place = hash & 255; static_places[place]; place = (place + 1) & 255) {
        Entry *entry = static_entries[static_places[place]];
        if (entry->name_length == length && memcmp(NAME(entry), name, length) == 0)
            return static_places[place];
    }
    return 0;
}

static unsigned char *
put_integer(unsigned char *out, size_t number, unsigned prefix, unsigned first)
{
    if (number < prefix) {
        *out++ = (unsigned char)(first | number);
        return out;
    }
    *out++ = (unsigned char)(first | prefix);
    number -= prefix;
    while (number >= 0x80) {
        *out++ = (unsigned char)((number & 0x7F) | 0x80);
        number >>= 7;
    }
    *out++ = (unsigned char)number;
    return out;
}

/* A string, in the shorter form. */
static unsigned char *
put_string(unsigned char *out, Text text, size_t length)
{
    size_t coded = huffman_size(text, length);

    if (coded < length)
        return huffman_encode(text, length, put_integer(out, coded, 0x7F, 0x80));
    out = put_integer(out, length, 0x7F, 0);
    memcpy(out, text, length);
    return out + length;
}

/* Whether a field was sent before; if not, it is known from now on. Returns -1 without memory. */
static int
was_seen(Encoder *self, uint32_t hash)
{
    uint32_t mask, place;

    hash += !hash;
    if (self->seen_count * 2 >= self->seen_places && self->seen_places < SEEN_PLACES) {
        int places = self->seen_places ? self->seen_places * 2 : 16;
        uint32_t *larger = PyMem_Calloc((size_t)places, sizeof(uint32_t));
        if (larger == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        mask = (uint32_t)places - 1;
        for (int i = 0; i < self->seen_places; i++) {
            if (self->seen[i]) {
                for (place = self->seen[i] & mask; larger[place]; place = (place + 1) & mask)
                    ;
                larger[place] = self->seen[i];
            }
        }
        PyMem_Free(self->seen);
        self->seen = larger;
        self->seen_places = places;
    }
    mask = (uint32_t)self->seen_places - 1;
    for (place = hash & mask; self->seen[place]; place = (place + 1) & mask)
        if (self->seen[place] == hash)
            return 1;
    if (self->seen_count >= MAX_SEEN) {
        memset(self->seen, 0, (size_t)self->seen_places * sizeof(uint32_t));
        self->seen_count = 0;
        place = hash & mask;
    }
    self->seen[place] = hash;
    self->seen_count++;
    return 0;
}

/* Adds a field to a block, which has room for it. Returns -1 without memory. */
static int
put_field(Encoder *self, Block *block, Text name, size_t name_length, Text value, size_t value_length, int is_sensitive)
{
    Table *table = &self->table;
    uint32_t name_hash = hash_of(name, name_length, 0), hash = hash_of(value, value_length, name_hash);
    int named = static_index(name, name_length, name_hash);
    unsigned first, prefix;

    if (named && value_length)
        for (int index = named; index < FIRST_DYNAMIC; index++) {
            Entry *entry = static_entries[index];
            if (entry->name_length != name_length || memcmp(NAME(entry), name, name_length) != 0)
                break;
            if (entry->value_length == value_length && memcmp(VALUE(entry), value, value_length) == 0) {
                block->at = put_integer(block->at, (size_t)index, 0x7F, 0x80);
                return 0;
            }
        }
    for (Py_ssize_t i = table->end; i-- > table->begin;) {
        Entry *entry = table->entries[i];
        if (entry->hash == hash && entry->name_length == name_length && entry->value_length == value_length &&
            memcmp(NAME(entry), name, name_length) == 0 && memcmp(VALUE(entry), value, value_length) == 0) {
            block->at = put_integer(block->at, (size_t)(FIRST_DYNAMIC + table->end - 1 - i), 0x7F, 0x80);
            return 0;
        }
    }
    if (is_sensitive) {
        first = 0x10;
        prefix = 0x0F;
    }
    else {
        int seen = was_seen(self, hash);
        if (seen < 0)
            return -1;
        block->is_settled = 0;
        if (seen && (Py_ssize_t)(name_length + value_length + OVERHEAD) <= table->max_size) {
            Entry *entry = new_entry(name, name_length, value, value_length);
            int failed;
            if (entry == NULL)
                return -1;
            entry->hash = hash;
            failed = add_entry(table, entry);
            release(entry);
            if (self->known != NULL)
                PyDict_Clear(self->known);
            if (failed < 0)
                return -1;
            first = 0x40;
            prefix = 0x3F;
        }
        else {
            first = 0;
            prefix = 0x0F;
        }
    }
    block->at = put_integer(block->at, (size_t)named, prefix, first);
    if (!named)
        block->at = put_string(block->at, name, name_length);
    block->at = put_string(block->at, value, value_length);
    return 0;
}

/* The most bytes that the beginning of a block takes. */
enum { UPDATES_ROOM = 12 };

static void
begin_block(Encoder *self, Block *block, unsigned char *out)
{
    block->at = out;
    block->is_settled = self->update_count == 0;
    for (int i = 0; i < self->update_count; i++)
        block->at = put_integer(block->at, (size_t)self->updates[i], 0x1F, 0x20);
    self->update_count = 0;
}

PyDoc_STRVAR(encode_doc, "Return the block of a list.");

static PyObject *s_pairs, *s_sensitive;

static int
put_pairs(Encoder *self, Block *block, PyObject *pairs, PyObject *sensitive)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(pairs); i++) {
        PyObject *pair = PyTuple_GET_ITEM(pairs, i), *name = PyTuple_GET_ITEM(pair, 0), *value = PyTuple_GET_ITEM(pair, 1);
        int is_sensitive = PySet_GET_SIZE(sensitive) ? PySet_Contains(sensitive, name) : 0;
        if (is_sensitive < 0 || put_field(self, block, (Text)PyBytes_AS_STRING(name), (size_t)PyBytes_GET_SIZE(name),
                                          (Text)PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value), is_sensitive) < 0)
            return -1;
    }
    return 0;
}

/* The most bytes that a list takes in a block; -1 with an error if it is no list. */
static Py_ssize_t
room_of(PyObject *pairs, PyObject *sensitive)
{
    Py_ssize_t room = UPDATES_ROOM;

    if (!PyTuple_Check(pairs) || !PyAnySet_Check(sensitive)) {
        PyErr_SetString(PyExc_TypeError, "this is no header list");
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(pairs); i++) {
        PyObject *pair = PyTuple_GET_ITEM(pairs, i);
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2 || !PyBytes_Check(PyTuple_GET_ITEM(pair, 0)) ||
            !PyBytes_Check(PyTuple_GET_ITEM(pair, 1))) {
            PyErr_SetString(PyExc_TypeError, "a field must be a pair of bytes");
            return -1;
        }
        room += PyBytes_GET_SIZE(PyTuple_GET_ITEM(pair, 0)) + PyBytes_GET_SIZE(PyTuple_GET_ITEM(pair, 1)) + FIELD_ROOM;
    }
    return room;
}

static PyObject *
encode_pairs(Encoder *self, PyObject *pairs, PyObject *sensitive, int *is_settled)
{
    Py_ssize_t room = room_of(pairs, sensitive);
    unsigned char *out = room < 0 ? NULL : scratch_of(0, (size_t)room);
    Block block;

    if (out == NULL)
        return NULL;
    begin_block(self, &block, out);
    if (put_pairs(self, &block, pairs, sensitive) < 0)
        return NULL;
    *is_settled = block.is_settled;
    return bytes_of(out, (size_t)(block.at - out));
}

static PyObject *
encoder_encode(Encoder *self, PyObject *headers)
{
    PyObject *pairs, *sensitive, *block = NULL;
    int is_settled = 0;

    if (self->known != NULL) {
        block = PyDict_GetItemWithError(self->known, headers);
        if (block != NULL || PyErr_Occurred())
            return Py_XNewRef(block);
    }
    pairs = PyObject_GetAttr(headers, s_pairs);
    if (pairs == NULL)
        return NULL;
    sensitive = PyObject_GetAttr(headers, s_sensitive);
    if (sensitive != NULL) {
        block = encode_pairs(self, pairs, sensitive, &is_settled);
        Py_DECREF(sensitive);
    }
    Py_DECREF(pairs);
    if (block != NULL && is_settled) {
        if (self->known == NULL)
            self->known = PyDict_New();
        else if (PyDict_GET_SIZE(self->known) >= MAX_REMEMBERED)
            PyDict_Clear(self->known);
        if (self->known == NULL || PyDict_SetItem(self->known, headers, block) < 0)
            Py_CLEAR(block);
    }
    return block;
}

PyDoc_STRVAR(set_table_size_doc, "The peer's SETTINGS_HEADER_TABLE_SIZE is `size` from now on. More than the default is "
                                 "not used.");

static PyObject *
encoder_set_table_size(Encoder *self, PyObject *given)
{
    long long wanted = PyLong_AsLongLong(given);
    long size;

    if (wanted == -1 && PyErr_Occurred())
        return NULL;
    size = wanted < DEFAULT_TABLE_SIZE ? (long)wanted : DEFAULT_TABLE_SIZE;
    if (size == self->table.max_size)
        Py_RETURN_NONE;
    /* If it changes twice before a block, the smaller one must be told too (RFC 7541, section 4.2). */
    if (self->update_count) {
        long least = self->update_count == 2 && self->updates[1] < self->updates[0] ? self->updates[1] : self->updates[0];
        self->update_count = size <= least ? 1 : 2;
        self->updates[0] = size <= least ? size : least;
        self->updates[1] = size;
    }
    else {
        self->updates[0] = size;
        self->update_count = 1;
    }
    self->table.max_size = size;
    evict(&self->table, size);
    if (self->known != NULL)
        PyDict_Clear(self->known);
    Py_RETURN_NONE;
}

static PyObject *
encoder_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {NULL};
    Encoder *self;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Encoder", names))
        return NULL;
    self = (Encoder *)type->tp_alloc(type, 0);
    if (self != NULL)
        self->table.max_size = DEFAULT_TABLE_SIZE;
    return (PyObject *)self;
}

static void
encoder_dealloc(Encoder *self)
{
    Py_XDECREF(self->known);
    PyMem_Free(self->seen);
    free_table(&self->table);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMethodDef encoder_methods[] = {
    {"encode", METHOD(encoder_encode), METH_O, encode_doc},
    {"set_table_size", METHOD(encoder_set_table_size), METH_O, set_table_size_doc},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject encoder_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "ktcpvs.protocols.http2._compiled.Encoder",
    .tp_basicsize = sizeof(Encoder),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = PyDoc_STR("The encoding context of one connection."),
    .tp_new = encoder_new,
    .tp_dealloc = (destructor)encoder_dealloc,
    .tp_methods = encoder_methods,
};

/* Reads the static table of hpack_table.py. */
static int
make_static_entries(PyObject *table)
{
    if (!PyTuple_Check(table) || PyTuple_GET_SIZE(table) != FIRST_DYNAMIC - 1) {
        PyErr_SetString(PyExc_ImportError, "STATIC_TABLE must be a tuple of 61 fields");
        return -1;
    }
    for (int index = 1; index < FIRST_DYNAMIC; index++) {
        const char *name, *value;
        Py_ssize_t name_length, value_length;
        Entry *entry;
        uint32_t hash;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(table, index - 1), "y#y#", &name, &name_length, &value, &value_length))
            return -1;
        entry = new_entry((Text)name, (size_t)name_length, (Text)value, (size_t)value_length);
        if (entry == NULL)
            return -1;
        entry->kind = (uint8_t)kind_of(NAME(entry), entry->name_length, VALUE(entry), entry->value_length);
        static_entries[index] = entry;
        hash = hash_of(NAME(entry), entry->name_length, 0);
        if (!static_index(NAME(entry), entry->name_length, hash)) {
            uint32_t place = hash & 255;
            while (static_places[place])
                place = (place + 1) & 255;
            static_places[place] = (uint8_t)index;
        }
    }
    return 0;
}

#endif
