/* Servers by the hash of a key, and `choose` of the schedulers that hash, compiled: hashing.py, keys.py, maglev.py,
 * chash.py, sh.py and rendezvous.py say what they do, and have the same in Python for where this module is not installed.
 */

#include "_servers.h"
#include <math.h>

enum { M_NUMBER, M_SERVERS, M_TABLE };
FIELDS(maglev, "_number", "_servers", "_table");

enum { T_ENTRIES };
FIELDS(table, "entries");

enum { C_CHOICES, C_LOAD_FACTOR, C_NUMBER, C_OTHERS, C_SEEDS };
FIELDS(chash, "_choices", "_load_factor", "_number", "_others", "_seeds");

enum { H_SERVERS };
FIELDS(sh, "_servers");

enum { V_CHOICES, V_SEEDS };
FIELDS(rendezvous, "_choices", "_seeds");

static PyObject *s_probe;

/* The hashes of clients: hash_client of hashing.py. */

/* A client whose hash is remembered. client: an exact str, owned; NULL: the place is free. */
typedef struct {
    PyObject *client;
    uint64_t number;
} Remembered;

/* The places that a client may have: those of one line of the processor's cache. The client that came last is first. */
enum { WAYS = 4 };

/* Longer addresses are hashed each time: none of a socket has so many characters. */
#define MAX_REMEMBERED_LENGTH 128

static Remembered *remembered;
static size_t sets;
static PyObject *plain_hash_client, *number_of_client;

/* Whether two exact str are equal. Runs no Python. */
static inline int
equals(PyObject *one, PyObject *other)
{
    if (one == other)
        return 1;
    Py_ssize_t length = PyUnicode_GET_LENGTH(one);
    int kind = PyUnicode_KIND(one);
    return PyUnicode_GET_LENGTH(other) == length && (int)PyUnicode_KIND(other) == kind &&
           memcmp(PyUnicode_DATA(one), PyUnicode_DATA(other), (size_t)length * (size_t)kind) == 0;
}

/* The places for a client. */
static inline Remembered *
places_of(PyObject *client)
{
    return remembered + (size_t)PyObject_Hash(client) % sets * WAYS;
}

/* Puts a client first among its places. one: what is remembered of it. old: the place that it had, or the last one. */
static inline void
put_first(Remembered *places, Remembered *old, Remembered one)
{
    memmove(places + 1, places, (size_t)((char *)old - (char *)places));
    places[0] = one;
}

/* Computes a hash in Python. Returns -1 with an exception. */
static int
compute(PyObject *function, PyObject *argument, uint64_t *number)
{
    PyObject *result = PyObject_CallOneArg(function, argument);
    if (result == NULL)
        return -1;
    *number = PyLong_AsUnsignedLongLong(result);
    Py_DECREF(result);
    return *number == (uint64_t)-1 && PyErr_Occurred() ? -1 : 0;
}

/* The hash of a client's address, which the caller owns. Returns -1 with an exception. */
static int
hash_of(PyObject *client, uint64_t *number)
{
    if (!PyUnicode_CheckExact(client) || PyUnicode_GET_LENGTH(client) > MAX_REMEMBERED_LENGTH)
        return compute(plain_hash_client, client, number);
    Remembered *places = places_of(client), *last = places + WAYS - 1;
    for (Remembered *place = places; place <= last && place->client != NULL; place++) {
        if (!equals(place->client, client))
            continue;
        *number = place->number;
        if (place != places)
            put_first(places, place, *place);
        return 0;
    }
    if (compute(plain_hash_client, client, number) < 0)
        return -1;
    places = places_of(client); /* Python may have configured another table */
    last = places + WAYS - 1;
    PyObject *dropped = last->client;
    put_first(places, last, (Remembered){Py_NewRef(client), *number});
    Py_XDECREF(dropped);
    return 0;
}

static PyObject *
hash_client(PyObject *module, PyObject *client)
{
    uint64_t number;
    (void)module;
    return hash_of(client, &number) < 0 ? NULL : PyLong_FromUnsignedLongLong(number);
}

/* The hash of a request's key. function: that returns it: see keys.py. Returns -1 with an exception. */
static int
key_of(PyObject *function, PyObject *request, uint64_t *number)
{
    if (function == NULL) {
        PyErr_SetString(PyExc_AttributeError, "_number");
        return -1;
    }
    int is_client = function == number_of_client && IS_A(request, request) && SLOT(request, request, R_CLIENT) != NULL;
    PyObject *argument = Py_NewRef(is_client ? SLOT(request, request, R_CLIENT) : request);
    Py_INCREF(function);
    int result = is_client ? hash_of(argument, number) : compute(function, argument, number);
    Py_DECREF(function);
    Py_DECREF(argument);
    return result;
}

/* Servers by a hash: hashing.py. */

/* Servers by the hash of a key. number: the hash. seeds: of the servers. */
typedef struct {
    uint64_t number;
    PyObject *seeds, *choices, *tried;
} Hashed;

/* Checks the seeds and the choices. Returns -1 with an exception. */
static int
check(const Hashed *hashed)
{
    PyObject *seeds = hashed->seeds, *choices = hashed->choices;
    if (seeds != NULL && choices != NULL && PyBytes_Check(seeds) && PyTuple_Check(choices) &&
        PyBytes_GET_SIZE(seeds) == 8 * PyTuple_GET_SIZE(choices))
        return 0;
    PyErr_SetString(PyExc_TypeError, "seeds must be bytes, 8 for each of the choices, which must be a tuple");
    return -1;
}

/* Reads (number, seeds, choices, tried). */
static int
read_hashed(PyObject *const *args, Hashed *hashed)
{
    hashed->seeds = args[1];
    hashed->choices = args[2];
    hashed->tried = args[3];
    if (check(hashed) < 0)
        return -1;
    hashed->number = PyLong_AsUnsignedLongLong(args[0]);
    return hashed->number == (uint64_t)-1 && PyErr_Occurred() ? -1 : 0;
}

/* A draw of at least this part of its bound is larger than the least one: more than rounding can change. */
#define ROUNDING (1 - 1e-9)

/* Finds out whether a server with a weight has a smaller draw than `least`, and writes it there. Most have not, which
 * is seen without a logarithm: -log(share) is at least 1 - share. */
static inline int
draws_less(const Hashed *hashed, Py_ssize_t index, double weight, double *least)
{
    uint64_t seed;
    memcpy(&seed, PyBytes_AS_STRING(hashed->seeds) + 8 * index, 8);
    double share = ((double)mixed(hashed->number ^ seed) + 1.0) / 18446744073709551616.0;
    if ((1 - share) * ROUNDING >= *least * weight)
        return 0;
    double draw = -log(share) / weight;
    if (!(draw < *least))
        return 0;
    *least = draw;
    return 1;
}

/* plain_pick of hashing.py, a new reference. */
static PyObject *
first_of(const Hashed *hashed)
{
    PyObject *best = Py_None;
    double least = INFINITY;
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(hashed->choices); index++) {
        PyObject *choice = PyTuple_GET_ITEM(hashed->choices, index), *destination;
        double weight;
        int is_usable = usable_server(choice, hashed->tried, &destination, &weight);
        if (is_usable < 0)
            return NULL;
        if (!is_usable)
            continue;
        Py_DECREF(destination);
        if (draws_less(hashed, index, weight, &least))
            best = choice;
    }
    return Py_NewRef(best);
}

static PyObject *
pick(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Hashed hashed;
    (void)module;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "pick(number, seeds, choices, tried)");
        return NULL;
    }
    return read_hashed(args, &hashed) < 0 ? NULL : first_of(&hashed);
}

/* What a pass over the servers has found. best: the index of the first one in the order of the hash, -1: none. total,
 * weights: of the connections and the weights of all. */
typedef struct {
    Py_ssize_t best;
    double least, weight, active, total, weights;
} Found;

/* Finds the first server with less than `share` connections for a weight of 1. */
static int
find_below(const Hashed *hashed, double share, Found *found)
{
    *found = (Found){.best = -1, .least = INFINITY};
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(hashed->choices); index++) {
        PyObject *destination;
        double weight, active;
        int is_usable = usable_server(PyTuple_GET_ITEM(hashed->choices, index), hashed->tried, &destination, &weight);
        if (is_usable < 0)
            return -1;
        if (!is_usable)
            continue;
        int result = active_of(destination, &active);
        Py_DECREF(destination);
        if (result < 0)
            return -1;
        found->total += active;
        found->weights += weight;
        if (active < share * weight && draws_less(hashed, index, weight, &found->least)) {
            found->best = index;
            found->weight = weight;
            found->active = active;
        }
    }
    return 0;
}

/* plain_pick_bounded of hashing.py, a new reference. */
static PyObject *
first_below(const Hashed *hashed, PyObject *others, double factor)
{
    Found first, next;
    if (others == NULL || !PyTuple_Check(others) || PyTuple_GET_SIZE(others) != PyTuple_GET_SIZE(hashed->choices)) {
        PyErr_SetString(PyExc_TypeError, "others must be a tuple, as long as the choices");
        return NULL;
    }
    if (find_below(hashed, INFINITY, &first) < 0)
        return NULL;
    if (first.best < 0)
        return Py_NewRef(Py_None);
    if (!(first.active * first.weights < (first.total + 1) * factor * first.weight)) {
        if (find_below(hashed, (first.total + 1) * factor / first.weights, &next) < 0)
            return NULL;
        if (next.best >= 0)
            return Py_NewRef(PyTuple_GET_ITEM(others, next.best));
    }
    return Py_NewRef(PyTuple_GET_ITEM(hashed->choices, first.best));
}

static PyObject *
pick_bounded(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Hashed hashed;
    (void)module;
    if (count != 6) {
        PyErr_SetString(PyExc_TypeError, "pick_bounded(number, seeds, choices, tried, others, load_factor)");
        return NULL;
    }
    double factor = PyFloat_AsDouble(args[5]);
    if ((factor == -1.0 && PyErr_Occurred()) || read_hashed(args, &hashed) < 0)
        return NULL;
    return first_below(&hashed, args[4], factor);
}

/* `choose` of schedulers. */

/* Takes what a scheduler hashes by, owned until `release`. function: as for key_of. Returns -1 with an exception. */
static int
take_hashed(Hashed *hashed, PyObject *function, PyObject *seeds, PyObject *choices, PyObject *request)
{
    *hashed = (Hashed){.seeds = Py_XNewRef(seeds), .choices = Py_XNewRef(choices)};
    if (check(hashed) < 0 || key_of(function, request, &hashed->number) < 0)
        return -1;
    hashed->tried = tried_of(request);
    return hashed->tried == NULL ? -1 : 0;
}

static void
release(Hashed *hashed)
{
    Py_XDECREF(hashed->seeds);
    Py_XDECREF(hashed->choices);
    Py_XDECREF(hashed->tried);
}

static PyObject *
chash_choose(PyObject *self, PyObject *request)
{
    Hashed hashed;
    double factor;
    PyObject *others = OWNED(self, chash, C_OTHERS), *choice = NULL;
    if (others == NULL)
        return NULL;
    if (!plain_number(SLOT(self, chash, C_LOAD_FACTOR), &factor)) {
        PyErr_SetString(PyExc_TypeError, "load_factor must be a number");
        Py_DECREF(others);
        return NULL;
    }
    if (take_hashed(&hashed, SLOT(self, chash, C_NUMBER), SLOT(self, chash, C_SEEDS), SLOT(self, chash, C_CHOICES),
                    request) == 0)
        choice = first_below(&hashed, others, factor);
    release(&hashed);
    Py_DECREF(others);
    return choice;
}

static PyObject *
sh_choose(PyObject *self, PyObject *request)
{
    Hashed hashed;
    PyObject *servers = SLOT(self, sh, H_SERVERS), *choice = NULL;
    if (!IS_A(servers, rendezvous)) {
        PyErr_SetString(PyExc_TypeError, "the servers of sh must be a Rendezvous");
        return NULL;
    }
    if (take_hashed(&hashed, number_of_client, SLOT(servers, rendezvous, V_SEEDS), SLOT(servers, rendezvous, V_CHOICES),
                    request) == 0)
        choice = first_of(&hashed);
    release(&hashed);
    return choice;
}

/* The server of a table's entry for a hash, borrowed; NULL, without an exception: the table is not as maglev.py makes it,
 * or there is none. Its tuple has a choice, a weight and a seed. */
static PyObject *
server_at(PyObject *self, uint64_t number)
{
    PyObject *table = SLOT(self, maglev, M_TABLE), *servers = SLOT(self, maglev, M_SERVERS);
    PyObject *entries = IS_A(table, table) ? SLOT(table, table, T_ENTRIES) : NULL;
    if (entries == NULL || !PyBytes_CheckExact(entries) || servers == NULL || !PyTuple_CheckExact(servers))
        return NULL;
    uint64_t size = (uint64_t)PyBytes_GET_SIZE(entries) / 2;
    if (size == 0)
        return NULL;
    uint16_t entry;
    memcpy(&entry, PyBytes_AS_STRING(entries) + 2 * (number % size), sizeof entry);
    if (entry >= PyTuple_GET_SIZE(servers))
        return NULL;
    PyObject *server = PyTuple_GET_ITEM(servers, entry);
    return PyTuple_Check(server) && PyTuple_GET_SIZE(server) == 3 ? server : NULL;
}

/* Whether a server has at least the weight that it has in the table, and has not been tried. Returns -1 with an
 * exception. */
static int
has_whole_weight(PyObject *server, PyObject *request)
{
    double weight, now;
    if (!plain_number(PyTuple_GET_ITEM(server, 1), &weight))
        return 0;
    PyObject *destination = destination_of(PyTuple_GET_ITEM(server, 0)), *tried = NULL;
    int result = destination == NULL || weight_of(destination, &now) < 0 ? -1 : now >= weight;
    if (result > 0) {
        tried = tried_of(request);
        int has_been_tried = tried == NULL ? -1 : is_tried(tried, destination);
        result = has_been_tried < 0 ? -1 : !has_been_tried;
    }
    Py_XDECREF(tried);
    Py_XDECREF(destination);
    return result;
}

/* What this entry does not decide is left to Python. */
static PyObject *
maglev_choose(PyObject *self, PyObject *request)
{
    uint64_t number;
    if (key_of(SLOT(self, maglev, M_NUMBER), request, &number) < 0)
        return NULL;
    PyObject *server = Py_XNewRef(server_at(self, number));
    int is_found = server == NULL ? 0 : has_whole_weight(server, request);
    PyObject *choice = is_found > 0 ? Py_NewRef(PyTuple_GET_ITEM(server, 0)) : NULL;
    Py_XDECREF(server);
    if (is_found != 0)
        return choice;
    PyObject *hash = PyLong_FromUnsignedLongLong(number);
    if (hash != NULL)
        choice = PyObject_CallMethodObjArgs(self, s_probe, hash, request, NULL);
    Py_XDECREF(hash);
    return choice;
}

/* Configuration. */

CHOOSE(chash, chash_choose, "Return the choice of the first server for a key that has less than its share, or None.");
CHOOSE(maglev, maglev_choose, "Return the choice of the first entry for a key whose server can serve, or None.");
CHOOSE(sh, sh_choose, "Return the choice of the first server for a client, or None.");

static PyMethodDef hash_client_function = {"hash_client", hash_client, METH_O, "Return the 64-bit hash of a client's address."};

static PyObject *
configure_clients(PyObject *module, PyObject *args)
{
    PyObject *function;
    Py_ssize_t count;
    if (!PyArg_ParseTuple(args, "On", &function, &count))
        return NULL;
    if (count < WAYS) {
        PyErr_SetString(PyExc_ValueError, "configure_clients: the hashes of at least four clients must be remembered");
        return NULL;
    }
    Remembered *made = PyMem_Calloc((size_t)count, sizeof(Remembered)), *old = remembered;
    if (made == NULL)
        return PyErr_NoMemory();
    size_t places = sets * WAYS;
    remembered = made;
    sets = (size_t)count / WAYS;
    for (size_t index = 0; index < places; index++)
        Py_XDECREF(old[index].client);
    PyMem_Free(old);
    put_new(&plain_hash_client, function);
    return PyCFunction_New(&hash_client_function, module);
}

static PyObject *
configure_keys(PyObject *module, PyObject *function)
{
    (void)module;
    if (remembered == NULL) {
        PyErr_SetString(PyExc_ValueError, "configure_keys is called after configure_clients");
        return NULL;
    }
    put_new(&number_of_client, function);
    return Py_NewRef(Py_None);
}

static PyObject *
configure_chash(PyObject *module, PyObject *type)
{
    (void)module;
    return method_for(type, &chash_layout, chash_names, &chash_method);
}

static PyObject *
configure_maglev(PyObject *module, PyObject *classes)
{
    static const Class all[] = {CLASS(maglev), CLASS(table), {NULL, NULL, NULL}};
    (void)module;
    if (!PyDict_Check(classes)) {
        PyErr_SetString(PyExc_TypeError, "configure_maglev(classes)");
        return NULL;
    }
    return learn_all(classes, all) < 0 ? NULL : PyDescr_NewMethod(maglev_layout.type, &maglev_method);
}

static PyObject *
configure_sh(PyObject *module, PyObject *classes)
{
    static const Class all[] = {CLASS(sh), CLASS(rendezvous), {NULL, NULL, NULL}};
    (void)module;
    if (!PyDict_Check(classes)) {
        PyErr_SetString(PyExc_TypeError, "configure_sh(classes)");
        return NULL;
    }
    return learn_all(classes, all) < 0 ? NULL : PyDescr_NewMethod(sh_layout.type, &sh_method);
}

static PyMethodDef functions[] = {
    {"configure_chash", configure_chash, METH_O, "configure_chash(BoundCHash): its `choose`."},
    {"configure_clients", configure_clients, METH_VARARGS,
     "configure_clients(plain_hash_client, count): `hash_client` that remembers the hashes of so many clients."},
    {"configure_keys", configure_keys, METH_O, "configure_keys(number_of_client): the function that is not called."},
    {"configure_maglev", configure_maglev, METH_O, "configure_maglev(classes): `choose` of BoundMaglev."},
    {"configure_sh", configure_sh, METH_O, "configure_sh(classes): `choose` of BoundSH."},
    {"pick", METHOD(pick), METH_FASTCALL, "pick(number, seeds, choices, tried): see hashing.py."},
    {"pick_bounded", METHOD(pick_bounded), METH_FASTCALL,
     "pick_bounded(number, seeds, choices, tried, others, load_factor): see the same."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_hashing", "Compiled forms of functions and `choose` of ktcpvs.schedulers.", -1, functions, NULL,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__hashing(void)
{
    static const Variable names[] = {{&s_probe, "probe"}, {NULL, NULL}};
    return make_names(names) < 0 || learn_servers() < 0 ? NULL : PyModule_Create(&definition);
}
