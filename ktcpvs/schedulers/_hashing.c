/* The hot functions of hashing schedulers, compiled: hashing.py and maglev_table.py say what they do, and have the same
 * in Python for where this module is not installed.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define MAX_SERVERS 65534

/* A turn takes about as long as looking at so many entries. */
#define LOOKS_OF_A_TURN 5

static inline uint64_t
mixed(uint64_t number)
{
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9u;
    number = (number ^ (number >> 27)) * 0x94D049BB133111EBu;
    return number ^ (number >> 31);
}

static PyObject *
draws(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2 || !PyBytes_Check(args[1]) || PyBytes_GET_SIZE(args[1]) % 8) {
        PyErr_SetString(PyExc_TypeError, "draws(number, seeds)");
        return NULL;
    }
    uint64_t number = PyLong_AsUnsignedLongLong(args[0]);
    if (number == (uint64_t)-1 && PyErr_Occurred())
        return NULL;
    const char *seeds = PyBytes_AS_STRING(args[1]);
    Py_ssize_t servers = PyBytes_GET_SIZE(args[1]) / 8;
    PyObject *list = PyList_New(servers);
    for (Py_ssize_t index = 0; list != NULL && index < servers; index++) {
        uint64_t seed;
        memcpy(&seed, seeds + 8 * index, 8);
        PyObject *draw = PyFloat_FromDouble(-log(((double)mixed(number ^ seed) + 1.0) / 18446744073709551616.0));
        if (draw == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, index, draw);
    }
    return list;
}

/* A server whose turn it is to take an entry of the table. due: when. place: of the entry that it would take next. */
typedef struct {
    double due;
    double weight;
    uint32_t place, skip, taken;
    uint16_t number;
} Turn;

static inline int
is_before(const Turn *one, const Turn *other)
{
    return one->due < other->due || (one->due == other->due && one->number < other->number);
}

/* Move the turn at `index` down the heap to its place. */
static void
sift(Turn *heap, Py_ssize_t count, Py_ssize_t index)
{
    Turn moving = heap[index];
    for (Py_ssize_t child; (child = 2 * index + 1) < count; index = child) {
        if (child + 1 < count && is_before(&heap[child + 1], &heap[child]))
            child++;
        if (!is_before(&heap[child], &moving))
            break;
        heap[index] = heap[child];
    }
    heap[index] = moving;
}

static PyObject *
begin(PyObject *module, PyObject *args)
{
    PyObject *servers;
    unsigned int size;
    if (!PyArg_ParseTuple(args, "O!I", &PyTuple_Type, &servers, &size))
        return NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(servers);
    if (count < 1 || count > MAX_SERVERS || size < 2 || size > INT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "begin(servers, size)");
        return NULL;
    }
    PyObject *result = PyByteArray_FromStringAndSize(NULL, count * (Py_ssize_t)sizeof(Turn));
    if (result == NULL)
        return NULL;
    Turn *heap = (Turn *)PyByteArray_AS_STRING(result);
    memset(heap, 0, (size_t)count * sizeof(Turn));
    for (Py_ssize_t index = 0; index < count; index++) {
        Turn *turn = &heap[index];
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(servers, index), "IId", &turn->place, &turn->skip, &turn->weight)) {
            Py_DECREF(result);
            return NULL;
        }
        if (turn->place >= size || turn->skip < 1 || turn->skip >= size || !(turn->weight > 0)) {
            PyErr_SetString(PyExc_ValueError, "begin: (offset, skip, weight) of a server is out of range");
            Py_DECREF(result);
            return NULL;
        }
        turn->number = (uint16_t)index;
        turn->due = 1 / turn->weight;
    }
    for (Py_ssize_t index = count / 2; index-- > 0;)
        sift(heap, count, index);
    return result;
}

/* Let each turn take the next free entry in the order of its server, until all are taken or `looks` have been looked at.
 * taken: a bit for each entry: they fit into the fastest cache, where nearly all of the time goes into finding a free one.
 * Returns how many are taken. */
static uint32_t
take_entries(Turn *heap, Py_ssize_t count, uint16_t *table, uint8_t *taken, uint32_t size, uint32_t filled, int64_t looks)
{
    for (; filled < size && looks > 0; filled++, looks -= LOOKS_OF_A_TURN) {
        Turn *turn = heap;
        uint32_t place = turn->place, skip = turn->skip;
        while (taken[place / 8] >> place % 8 & 1) {
            place += skip;
            if (place >= size)
                place -= size;
            looks--;
        }
        taken[place / 8] |= (uint8_t)(1 << place % 8);
        table[place] = turn->number;
        turn->place = place;
        turn->taken++;
        turn->due = (turn->taken + 1) / turn->weight;
        sift(heap, count, 0);
    }
    return filled;
}

static PyObject *
take(PyObject *module, PyObject *args)
{
    PyObject *turns, *table, *taken;
    unsigned int filled;
    Py_ssize_t looks;
    if (!PyArg_ParseTuple(args, "O!O!O!In", &PyByteArray_Type, &turns, &PyByteArray_Type, &table, &PyByteArray_Type, &taken,
                          &filled, &looks))
        return NULL;
    Py_ssize_t size = PyByteArray_GET_SIZE(table) / 2, count = PyByteArray_GET_SIZE(turns) / (Py_ssize_t)sizeof(Turn);
    if (count < 1 || size < 2 || size > INT32_MAX || PyByteArray_GET_SIZE(taken) * 8 < size) {
        PyErr_SetString(PyExc_ValueError, "take(turns, table, taken, filled, looks)");
        return NULL;
    }
    return PyLong_FromUnsignedLong(take_entries((Turn *)PyByteArray_AS_STRING(turns), count,
                                                (uint16_t *)PyByteArray_AS_STRING(table),
                                                (uint8_t *)PyByteArray_AS_STRING(taken), (uint32_t)size, filled, looks));
}

static PyMethodDef functions[] = {
    {"draws", (PyCFunction)(void (*)(void))draws, METH_FASTCALL, "draws(number, seeds): see hashing.py."},
    {"begin", begin, METH_VARARGS, "begin(servers, size): the turns of servers: see maglev_table.py."},
    {"take", take, METH_VARARGS, "take(turns, table, taken, filled, looks): how many entries are taken: see the same."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_hashing", "Compiled forms of functions of ktcpvs.schedulers.", -1, functions, NULL, NULL, NULL,
    NULL,
};

PyMODINIT_FUNC
PyInit__hashing(void)
{
    return PyModule_Create(&definition);
}
