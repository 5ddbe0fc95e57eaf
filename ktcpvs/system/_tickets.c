/* The callback of session tickets, compiled: it does what `_Tickets` in tls_tickets.py does, on the same TicketKeys.
 *
 * OpenSSL is not linked: configure() gets the addresses of its functions in the libssl that the ssl module uses. So this
 * needs no headers of OpenSSL, and there is no second copy of it in the process.
 */

#define _DEFAULT_SOURCE /* explicit_bzero */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { NAME_SIZE = 16, KEY_SIZE = 32, IV_SIZE = 16, TLS_1_3 = 0x0304 };

/* SSL_CTX_set_tlsext_ticket_key_cb(3) */
enum { FAILED = -1, FULL_HANDSHAKE = 0, NEW_TICKET = 1, RESUME = 1, RESUME_AND_RENEW = 2 };

/* OSSL_PARAM(3) */
typedef struct {
    const char *key;
    unsigned int data_type;
    void *data;
    size_t data_size;
    size_t return_size;
} Parameter;

enum { UTF8_STRING = 4, OCTET_STRING = 5 };

typedef int Start(void *context, const void *cipher, void *engine, const unsigned char *key, const unsigned char *iv);

static struct {
    void *(*context_of)(const void *connection);       /* SSL_get_SSL_CTX */
    void *(*data_of)(const void *context, int index);  /* SSL_CTX_get_ex_data */
    int (*version_of)(const void *connection);         /* SSL_version */
    int (*random)(unsigned char *bytes, int count);    /* RAND_bytes */
    Start *encrypt, *decrypt;                          /* EVP_EncryptInit_ex, EVP_DecryptInit_ex */
    int (*set_mac)(void *mac, const Parameter *given); /* EVP_MAC_CTX_set_params */
    const void *cipher;                                /* AES-256-CBC */
    int index;                                         /* of the TicketKeys among the data of an SSL_CTX */
} openssl;

/* A TicketKey. */
typedef struct {
    unsigned char name[NAME_SIZE], encryption[KEY_SIZE], authentication[KEY_SIZE];
} Key;

static PyObject *s_keys, *s_name, *s_encryption, *s_authentication;

static int
copy_part(PyObject *key, PyObject *attribute, unsigned char *to, Py_ssize_t size)
{
    PyObject *part = PyObject_GetAttr(key, attribute);
    if (part == NULL)
        return -1;
    int is_right = PyBytes_Check(part) && PyBytes_GET_SIZE(part) == size;
    if (is_right)
        memcpy(to, PyBytes_AS_STRING(part), (size_t)size);
    else
        PyErr_Format(PyExc_ValueError, "a ticket key has a part of another size than %zd bytes", size);
    Py_DECREF(part);
    return is_right ? 0 : -1;
}

enum { NO_KEY = -1, BAD_KEYS = -2 };

/* Copies the key of this name; name: NULL for the one with which tickets are made. Returns its place, NO_KEY, or BAD_KEYS
 * with an exception. */
static int
copy_key(PyObject *ticket_keys, const unsigned char *name, Key *key)
{
    int found = NO_KEY;
    PyObject *keys = PyObject_GetAttr(ticket_keys, s_keys);
    if (keys == NULL)
        return BAD_KEYS;
    if (!PyTuple_Check(keys)) {
        PyErr_SetString(PyExc_TypeError, "the ticket keys are no tuple");
        found = BAD_KEYS;
    }
    for (Py_ssize_t i = 0; found == NO_KEY && i < PyTuple_GET_SIZE(keys); i++) {
        PyObject *one = PyTuple_GET_ITEM(keys, i);
        if (copy_part(one, s_name, key->name, NAME_SIZE) < 0)
            found = BAD_KEYS;
        else if (name == NULL || memcmp(name, key->name, NAME_SIZE) == 0)
            found = copy_part(one, s_encryption, key->encryption, KEY_SIZE) < 0 ||
                            copy_part(one, s_authentication, key->authentication, KEY_SIZE) < 0
                        ? BAD_KEYS
                        : (int)i;
    }
    Py_DECREF(keys);
    return found;
}

/* Called within a handshake, for which the ssl module has released the GIL. */
static int
choose_key(void *connection, unsigned char *name, unsigned char *iv, void *cipher, void *mac, int encrypts)
{
    Key key;
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *ticket_keys = openssl.data_of(openssl.context_of(connection), openssl.index);
    int place = ticket_keys == NULL ? NO_KEY : copy_key(ticket_keys, encrypts ? NULL : name, &key);
    if (place == BAD_KEYS)
        PyErr_WriteUnraisable(ticket_keys);
    PyGILState_Release(state);
    if (place < 0)
        return place == NO_KEY && !encrypts ? FULL_HANDSHAKE : FAILED;

    Start *start = openssl.decrypt;
    int is_ready = 1;
    if (encrypts) {
        memcpy(name, key.name, NAME_SIZE);
        is_ready = openssl.random(iv, IV_SIZE) == 1;
        start = openssl.encrypt;
    }
    static char digest[] = "SHA256";
    const Parameter parameters[] = {{"key", OCTET_STRING, key.authentication, KEY_SIZE, 0},
                                    {"digest", UTF8_STRING, digest, sizeof digest - 1, 0},
                                    {NULL, 0, NULL, 0, 0}};
    is_ready = is_ready && start(cipher, openssl.cipher, NULL, key.encryption, iv) && openssl.set_mac(mac, parameters);
    explicit_bzero(&key, sizeof key);
    if (!is_ready)
        return FAILED;
    if (encrypts)
        return NEW_TICKET;
    return place > 0 || openssl.version_of(connection) >= TLS_1_3 ? RESUME_AND_RENEW : RESUME;
}

static PyObject *
configure(PyObject *module, PyObject *arguments)
{
    unsigned long long context_of, data_of, version_of, random, encrypt, decrypt, set_mac, cipher;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "KKKKKKKKi", &context_of, &data_of, &version_of, &random, &encrypt, &decrypt, &set_mac,
                          &cipher, &openssl.index))
        return NULL;
    openssl.context_of = (void *(*)(const void *))(uintptr_t)context_of;
    openssl.data_of = (void *(*)(const void *, int))(uintptr_t)data_of;
    openssl.version_of = (int (*)(const void *))(uintptr_t)version_of;
    openssl.random = (int (*)(unsigned char *, int))(uintptr_t)random;
    openssl.encrypt = (Start *)(uintptr_t)encrypt;
    openssl.decrypt = (Start *)(uintptr_t)decrypt;
    openssl.set_mac = (int (*)(void *, const Parameter *))(uintptr_t)set_mac;
    openssl.cipher = (const void *)(uintptr_t)cipher;
    return PyLong_FromUnsignedLongLong((uintptr_t)choose_key);
}

static PyMethodDef functions[] = {
    {"configure", configure, METH_VARARGS,
     "configure(context_of, data_of, version_of, random, encrypt, decrypt, set_mac, cipher, index): take the addresses of "
     "OpenSSL's functions and of a cipher, and the index of a context's TicketKeys; return the address of the callback."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_tickets", "The callback of session tickets, compiled.", -1, functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__tickets(void)
{
    static const struct {
        PyObject **place;
        const char *text;
    } strings[] = {{&s_keys, "keys"}, {&s_name, "name"}, {&s_encryption, "encryption"}, {&s_authentication, "authentication"}};
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        if ((*strings[i].place = PyUnicode_InternFromString(strings[i].text)) == NULL)
            return NULL;
    return PyModule_Create(&definition);
}
