/* The operations on one TLS connection, compiled: tls_operations.py has them in Python and says what they do.
 *
 * They call OpenSSL on the objects of `_ssl`, without exceptions for what happens in each connection, such as a record that
 * is not complete. Where OpenSSL fails, they call the method of `_ssl`, which finds the same failure again and raises what
 * `ssl` raises.
 *
 * OpenSSL is not linked: configure() gets the addresses of its functions in the libssl that the ssl module uses.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <limits.h>
#include <stdint.h>

enum { MAX_RECORD_SIZE = 16 << 10 };
enum { WANT_READ = 2, ZERO_RETURN = 6 }; /* SSL_get_error(3) */

static struct {
    int (*do_handshake)(void *connection);
    int (*read)(void *connection, void *data, size_t size, size_t *got);
    int (*write)(void *connection, const void *data, size_t size, size_t *taken);
    int (*shutdown)(void *connection);
    int (*get_error)(const void *connection, int result);
    void (*clear_errors)(void);
    int (*bio_read)(void *bio, void *data, int size);
    int (*bio_write)(void *bio, const void *data, int size);
    size_t (*bio_pending)(void *bio);
} openssl;

static PyTypeObject *connection_type, *bio_type;
static PyObject *s_do_handshake, *s_read, *s_write, *record_size, *no_bytes;

static char buffer[MAX_RECORD_SIZE]; /* of decrypted records; nothing stays in it */

/* The objects of `_ssl`: a socket's second field is the SSL, and a MemoryBIO's first one the BIO. tls_operations.py has
 * compared that with what OpenSSL says. */

static void *
field_of(PyObject *object, PyTypeObject *type, Py_ssize_t place)
{
    if (Py_TYPE(object) != type) {
        PyErr_Format(PyExc_TypeError, "%s expected, not %s", type->tp_name, Py_TYPE(object)->tp_name);
        return NULL;
    }
    void *found = *(void **)((char *)object + sizeof(PyObject) + place * (Py_ssize_t)sizeof(void *));
    if (found == NULL)
        PyErr_Format(PyExc_ValueError, "%s is closed", type->tp_name);
    return found;
}

#define SSL_OF(object) field_of(object, connection_type, 1)
#define BIO_OF(object) field_of(object, bio_type, 0)

static int
has_count(Py_ssize_t count, Py_ssize_t wanted)
{
    if (count != wanted)
        PyErr_Format(PyExc_TypeError, "%zd arguments expected, not %zd", wanted, count);
    return count == wanted;
}

/* Writes what has come. */
static int
put_input(void *bio, PyObject *data)
{
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return -1;
    int is_put = view.len == 0 ||
                 (view.len <= INT_MAX && openssl.bio_write(bio, view.buf, (int)view.len) == (int)view.len);
    PyBuffer_Release(&view);
    if (!is_put)
        PyErr_NoMemory(); /* else a BIO in memory takes everything */
    return is_put ? 0 : -1;
}

/* Everything that OpenSSL has written. */
static PyObject *
take_output(void *bio)
{
    size_t size = openssl.bio_pending(bio);
    if (size == 0)
        return Py_NewRef(no_bytes);
    PyObject *output = size > INT_MAX ? PyErr_NoMemory() : PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (output != NULL && openssl.bio_read(bio, PyBytes_AS_STRING(output), (int)size) != (int)size) {
        PyErr_SetString(PyExc_SystemError, "a BIO has less than it says");
        Py_CLEAR(output);
    }
    return output;
}

/* Reads the arguments (connection, incoming, data), and puts the data into the BIO. Returns the connection; NULL with an
 * exception. */
static void *
take_input(PyObject *const *args, Py_ssize_t count)
{
    void *connection, *incoming;
    if (!has_count(count, 3) || (connection = SSL_OF(args[0])) == NULL || (incoming = BIO_OF(args[1])) == NULL ||
        put_input(incoming, args[2]) < 0)
        return NULL;
    return connection;
}

/* shake_hands(connection, incoming, data) */
static PyObject *
shake_hands(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    void *connection;
    (void)module;
    if ((connection = take_input(args, count)) == NULL)
        return NULL;
    openssl.clear_errors();
    int result = openssl.do_handshake(connection);
    if (result == 1)
        Py_RETURN_TRUE;
    if (openssl.get_error(connection, result) == WANT_READ)
        Py_RETURN_FALSE;
    PyObject *made = PyObject_CallMethodNoArgs(args[0], s_do_handshake);
    if (made == NULL)
        return NULL;
    Py_DECREF(made);
    Py_RETURN_TRUE;
}

/* decrypt(connection, incoming, data) */
static PyObject *
decrypt(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    void *connection;
    size_t got = 0;
    (void)module;
    if ((connection = take_input(args, count)) == NULL)
        return NULL;
    openssl.clear_errors();
    int result = openssl.read(connection, buffer, sizeof buffer, &got);
    if (result == 1)
        return PyBytes_FromStringAndSize(buffer, (Py_ssize_t)got);
    int error = openssl.get_error(connection, result);
    if (error == WANT_READ)
        Py_RETURN_NONE;
    if (error == ZERO_RETURN)
        return Py_NewRef(no_bytes);
    return PyObject_CallMethodOneArg(args[0], s_read, record_size);
}

/* encrypt(connection, outgoing, data) */
static PyObject *
encrypt(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    void *connection, *outgoing;
    Py_buffer view;
    size_t taken = 0;
    (void)module;
    if (!has_count(count, 3) || (connection = SSL_OF(args[0])) == NULL || (outgoing = BIO_OF(args[1])) == NULL ||
        PyObject_GetBuffer(args[2], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    openssl.clear_errors();
    int is_whole = view.len > 0 && openssl.write(connection, view.buf, (size_t)view.len, &taken) == 1 &&
                   taken == (size_t)view.len;
    Py_ssize_t size = view.len;
    PyBuffer_Release(&view);
    if (!is_whole && size > 0) {
        PyObject *made = PyObject_CallMethodOneArg(args[0], s_write, args[2]);
        if (made == NULL)
            return NULL;
        Py_DECREF(made);
    }
    return take_output(outgoing);
}

/* close_notify(connection, outgoing) */
static PyObject *
close_notify(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    void *connection, *outgoing;
    (void)module;
    if (!has_count(count, 2) || (connection = SSL_OF(args[0])) == NULL || (outgoing = BIO_OF(args[1])) == NULL)
        return NULL;
    openssl.clear_errors();
    (void)openssl.shutdown(connection); /* of a broken connection it fails */
    openssl.clear_errors();
    return take_output(outgoing);
}

static PyObject *
configure(PyObject *module, PyObject *arguments)
{
    PyTypeObject *connection, *bio;
    unsigned long long do_handshake, read, write, shutdown, get_error, clear_errors, bio_read, bio_write, bio_pending;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "O!O!KKKKKKKKK", &PyType_Type, &connection, &PyType_Type, &bio, &do_handshake, &read,
                          &write, &shutdown, &get_error, &clear_errors, &bio_read, &bio_write, &bio_pending))
        return NULL;
    connection_type = (PyTypeObject *)Py_NewRef((PyObject *)connection);
    bio_type = (PyTypeObject *)Py_NewRef((PyObject *)bio);
    openssl.do_handshake = (int (*)(void *))(uintptr_t)do_handshake;
    openssl.read = (int (*)(void *, void *, size_t, size_t *))(uintptr_t)read;
    openssl.write = (int (*)(void *, const void *, size_t, size_t *))(uintptr_t)write;
    openssl.shutdown = (int (*)(void *))(uintptr_t)shutdown;
    openssl.get_error = (int (*)(const void *, int))(uintptr_t)get_error;
    openssl.clear_errors = (void (*)(void))(uintptr_t)clear_errors;
    openssl.bio_read = (int (*)(void *, void *, int))(uintptr_t)bio_read;
    openssl.bio_write = (int (*)(void *, const void *, int))(uintptr_t)bio_write;
    openssl.bio_pending = (size_t(*)(void *))(uintptr_t)bio_pending;
    Py_RETURN_NONE;
}

#define METHOD(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef functions[] = {
    {"configure", configure, METH_VARARGS,
     "configure(connection, bio, ...): take the types of `_ssl`, and the addresses of OpenSSL's functions. The others may "
     "be called after it."},
    {"shake_hands", METHOD(shake_hands), METH_FASTCALL, "shake_hands(connection, incoming, data): see tls_operations."},
    {"decrypt", METHOD(decrypt), METH_FASTCALL, "decrypt(connection, incoming, data): see tls_operations."},
    {"encrypt", METHOD(encrypt), METH_FASTCALL, "encrypt(connection, outgoing, data): see tls_operations."},
    {"close_notify", METHOD(close_notify), METH_FASTCALL, "close_notify(connection, outgoing): see tls_operations."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_tls", "The operations on one TLS connection, compiled.", -1, functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__tls(void)
{
    s_do_handshake = PyUnicode_InternFromString("do_handshake");
    s_read = PyUnicode_InternFromString("read");
    s_write = PyUnicode_InternFromString("write");
    record_size = PyLong_FromLong(MAX_RECORD_SIZE);
    no_bytes = PyBytes_FromString("");
    if (!s_do_handshake || !s_read || !s_write || !record_size || !no_bytes)
        return NULL;
    return PyModule_Create(&definition);
}
