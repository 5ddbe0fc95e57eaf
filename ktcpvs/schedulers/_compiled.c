/* The hot functions of schedulers, compiled: hashing.py, drawing.py, peak_ewma.py, maglev_table.py and content.py say
 * what they do, and have the same in Python for where this module is not installed.
 *
 * Servers may be objects of any class, and their attributes may run Python: each object that is in use is owned here,
 * and the choices are in tuples, which nobody changes meanwhile.
 */

#include "../_configuration.h"
#include <math.h>
#include <stdint.h>
#include <string.h>

#define MAX_SERVERS 65534

/* As in drawing.py. */
#define MAX_DRAWS 4

/* A turn takes about as long as looking at so many entries. */
#define LOOKS_OF_A_TURN 5

static inline uint64_t
mixed(uint64_t number)
{
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9u;
    number = (number ^ (number >> 27)) * 0x94D049BB133111EBu;
    return number ^ (number >> 31);
}

enum { U_PEAK, U_STAMP, U_LAST };
FIELDS(latency, "_peak", "_stamp", "last");

enum { Q_FAILURES, Q_REQUESTS, Q_STAMP };
FIELDS(error_rate, "_failures", "_requests", "_stamp");

static PyObject *s_active, *s_at, *s_destination, *s_error_rate, *s_last, *s_latency, *s_measured_errors, *s_measured_latency,
    *s_weight;
static double decay;

/* Reads an attribute that is a number. Returns -1 with an exception. */
static int
number_of(PyObject *object, PyObject *name, double *number)
{
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL)
        return -1;
    *number = PyFloat_AsDouble(value);
    Py_DECREF(value);
    return *number == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* The server of a choice, a new reference, where it has a weight and has not been tried. Returns 1; 0 for another server;
 * -1 with an exception. */
static int
usable_server(PyObject *choice, PyObject *tried, PyObject **destination, double *weight)
{
    *destination = PyObject_GetAttr(choice, s_destination);
    if (*destination == NULL)
        return -1;
    int is_usable = number_of(*destination, s_weight, weight) < 0 ? -1 : *weight > 0;
    if (is_usable > 0 && !(PyAnySet_CheckExact(tried) && PySet_GET_SIZE(tried) == 0)) {
        int is_tried = PySequence_Contains(tried, *destination);
        is_usable = is_tried < 0 ? -1 : !is_tried;
    }
    if (is_usable < 1)
        Py_CLEAR(*destination);
    return is_usable;
}

/* Servers by the hash of a key. number: the hash. seeds: of the servers. */
typedef struct {
    uint64_t number;
    PyObject *seeds, *choices, *tried;
} Hashed;

/* Reads (number, seeds, choices, tried). */
static int
read_hashed(PyObject *const *args, Hashed *hashed)
{
    hashed->seeds = args[1];
    hashed->choices = args[2];
    hashed->tried = args[3];
    if (!PyBytes_Check(args[1]) || !PyTuple_Check(args[2]) ||
        PyBytes_GET_SIZE(args[1]) != 8 * PyTuple_GET_SIZE(args[2])) {
        PyErr_SetString(PyExc_TypeError, "seeds must be bytes, 8 for each of the choices, which must be a tuple");
        return -1;
    }
    hashed->number = PyLong_AsUnsignedLongLong(args[0]);
    return hashed->number == (uint64_t)-1 && PyErr_Occurred() ? -1 : 0;
}

/* The pseudo-random number of a server with a weight. */
static double
drawn(const Hashed *hashed, Py_ssize_t index, double weight)
{
    uint64_t seed;
    memcpy(&seed, PyBytes_AS_STRING(hashed->seeds) + 8 * index, 8);
    return -log(((double)mixed(hashed->number ^ seed) + 1.0) / 18446744073709551616.0) / weight;
}

static PyObject *
pick(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Hashed hashed;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "pick(number, seeds, choices, tried)");
        return NULL;
    }
    if (read_hashed(args, &hashed) < 0)
        return NULL;
    PyObject *best = Py_None;
    double least = 0;
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(hashed.choices); index++) {
        PyObject *choice = PyTuple_GET_ITEM(hashed.choices, index), *destination;
        double weight;
        int is_usable = usable_server(choice, hashed.tried, &destination, &weight);
        if (is_usable < 0)
            return NULL;
        if (!is_usable)
            continue;
        Py_DECREF(destination);
        double draw = drawn(&hashed, index, weight);
        if (best == Py_None || draw < least) {
            best = choice;
            least = draw;
        }
    }
    return Py_NewRef(best);
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
    *found = (Found){.best = -1};
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(hashed->choices); index++) {
        PyObject *destination;
        double weight, active;
        int is_usable = usable_server(PyTuple_GET_ITEM(hashed->choices, index), hashed->tried, &destination, &weight);
        if (is_usable < 0)
            return -1;
        if (!is_usable)
            continue;
        int result = number_of(destination, s_active, &active);
        Py_DECREF(destination);
        if (result < 0)
            return -1;
        found->total += active;
        found->weights += weight;
        double draw = drawn(hashed, index, weight);
        if (active < share * weight && (found->best < 0 || draw < found->least)) {
            found->best = index;
            found->least = draw;
            found->weight = weight;
            found->active = active;
        }
    }
    return 0;
}

static PyObject *
pick_bounded(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Hashed hashed;
    Found first, next;
    if (count != 6 || !PyTuple_Check(args[4]) || !PyTuple_Check(args[2]) ||
        PyTuple_GET_SIZE(args[4]) != PyTuple_GET_SIZE(args[2])) {
        PyErr_SetString(PyExc_TypeError, "pick_bounded(number, seeds, choices, tried, others, load_factor)");
        return NULL;
    }
    double factor = PyFloat_AsDouble(args[5]);
    if ((factor == -1.0 && PyErr_Occurred()) || read_hashed(args, &hashed) < 0 || find_below(&hashed, INFINITY, &first) < 0)
        return NULL;
    if (first.best < 0)
        return Py_NewRef(Py_None);
    if (!(first.active * first.weights < (first.total + 1) * factor * first.weight)) {
        if (find_below(&hashed, (first.total + 1) * factor / first.weights, &next) < 0)
            return NULL;
        if (next.best >= 0)
            return Py_NewRef(PyTuple_GET_ITEM(args[4], next.best));
    }
    return Py_NewRef(PyTuple_GET_ITEM(hashed.choices, first.best));
}

/* An index below `count`, of a function that returns 0 to 1 without 1. Returns -1 with an exception. */
static Py_ssize_t
draw_index(PyObject *random, Py_ssize_t count)
{
    PyObject *value = PyObject_CallNoArgs(random);
    if (value == NULL)
        return -1;
    double index = PyFloat_AsDouble(value) * (double)count;
    Py_DECREF(value);
    if (PyErr_Occurred())
        return -1;
    if (!(index >= 0 && index < (double)count)) {
        PyErr_SetString(PyExc_IndexError, "random must return 0 to 1, without 1");
        return -1;
    }
    return (Py_ssize_t)index;
}

/* Two different ones of a tuple of at least two, a new tuple. */
static PyObject *
two_of(PyObject *choices, PyObject *random)
{
    Py_ssize_t count = PyTuple_GET_SIZE(choices);
    Py_ssize_t first = draw_index(random, count), second = first < 0 ? -1 : draw_index(random, count - 1);
    if (second < 0)
        return NULL;
    second += second >= first;
    return PyTuple_Pack(2, PyTuple_GET_ITEM(choices, first), PyTuple_GET_ITEM(choices, second));
}

static int
is_usable_choice(PyObject *choice, PyObject *tried)
{
    PyObject *destination;
    double weight;
    int is_usable = usable_server(choice, tried, &destination, &weight);
    if (is_usable > 0)
        Py_DECREF(destination);
    return is_usable;
}

/* The usable ones of a tuple, a new tuple. */
static PyObject *
usable_of(PyObject *choices, PyObject *tried)
{
    PyObject *list = PyList_New(0);
    for (Py_ssize_t index = 0; list != NULL && index < PyTuple_GET_SIZE(choices); index++) {
        PyObject *choice = PyTuple_GET_ITEM(choices, index);
        int is_usable = is_usable_choice(choice, tried);
        if (is_usable < 0 || (is_usable && PyList_Append(list, choice) < 0))
            Py_CLEAR(list);
    }
    PyObject *usable = list == NULL ? NULL : PyList_AsTuple(list);
    Py_XDECREF(list);
    return usable;
}

static PyObject *
draw_two(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 3 || !PyTuple_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "draw_two(choices, tried, random)");
        return NULL;
    }
    PyObject *choices = args[0], *tried = args[1], *random = args[2];
    for (int draw = 0; draw < MAX_DRAWS && PyTuple_GET_SIZE(choices) > 1; draw++) {
        PyObject *two = two_of(choices, random);
        if (two == NULL)
            return NULL;
        int is_usable = is_usable_choice(PyTuple_GET_ITEM(two, 0), tried);
        if (is_usable > 0)
            is_usable = is_usable_choice(PyTuple_GET_ITEM(two, 1), tried);
        if (is_usable > 0)
            return two;
        Py_DECREF(two);
        if (is_usable < 0)
            return NULL;
    }
    PyObject *usable = usable_of(choices, tried);
    if (usable == NULL || PyTuple_GET_SIZE(usable) < 2)
        return usable;
    PyObject *two = two_of(usable, random);
    Py_DECREF(usable);
    return two;
}

/* The latency of a server, a new reference. */
static inline PyObject *
latency_of(PyObject *destination)
{
    PyObject *measured = PyObject_GetAttr(destination, s_measured_latency);
    if (measured != Py_None)
        return measured;
    Py_DECREF(measured);
    return PyObject_GetAttr(destination, s_latency); /* which begins to measure */
}

/* The result of at(now). */
static int
value_at(PyObject *measured, PyObject *now, double *value)
{
    PyObject *result = PyObject_CallMethodOneArg(measured, s_at, now);
    if (result == NULL)
        return -1;
    *value = PyFloat_AsDouble(result);
    Py_DECREF(result);
    return *value == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* What is left of 1 since `stamp`, a float. */
static double
left_of(PyObject *stamp, PyObject *now)
{
    return exp((PyFloat_AsDouble(stamp) - PyFloat_AsDouble(now)) / decay);
}

/* The peak EWMA of a latency, and the last one. */
static int
read_latency(PyObject *destination, PyObject *now, double *seconds, double *last)
{
    PyObject *measured = latency_of(destination);
    if (measured == NULL)
        return -1;
    int result = 0;
    if (IS_A(measured, latency)) {
        double peak = PyFloat_AsDouble(SLOT(measured, latency, U_PEAK));
        *last = PyFloat_AsDouble(SLOT(measured, latency, U_LAST));
        *seconds = peak == 0 ? 0 : peak * left_of(SLOT(measured, latency, U_STAMP), now);
        result = PyErr_Occurred() ? -1 : 0;
    }
    else if (value_at(measured, now, seconds) < 0 || number_of(measured, s_last, last) < 0)
        result = -1;
    Py_DECREF(measured);
    return result;
}

/* The share of failures. */
static int
read_errors(PyObject *destination, PyObject *now, double *share)
{
    PyObject *measured = PyObject_GetAttr(destination, s_measured_errors);
    if (measured == NULL)
        return -1;
    int result = 0;
    if (measured == Py_None)
        result = number_of(destination, s_error_rate, share); /* which begins to measure */
    else if (IS_A(measured, error_rate)) {
        double failures = PyFloat_AsDouble(SLOT(measured, error_rate, Q_FAILURES));
        *share = 0;
        if (failures != 0)
            *share = failures / PyFloat_AsDouble(SLOT(measured, error_rate, Q_REQUESTS)) *
                     left_of(SLOT(measured, error_rate, Q_STAMP), now);
        result = PyErr_Occurred() ? -1 : 0;
    }
    else
        result = value_at(measured, now, share);
    Py_DECREF(measured);
    return result;
}

static PyObject *
expected_cost(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    double seconds, last, active, failures, weight;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "expected_cost(destination, now, failure_cost, uncertain)");
        return NULL;
    }
    PyObject *destination = args[0], *now = args[1];
    double failure_cost = PyFloat_AsDouble(args[2]);
    if ((failure_cost == -1.0 && PyErr_Occurred()) || read_latency(destination, now, &seconds, &last) < 0 ||
        number_of(destination, s_active, &active) < 0)
        return NULL;
    if (seconds <= last / 2) {
        PyObject *result = PyObject_CallFunction(args[3], "ddd", seconds, last, active);
        if (result == NULL)
            return NULL;
        seconds = PyFloat_AsDouble(result);
        Py_DECREF(result);
        if (seconds == -1.0 && PyErr_Occurred())
            return NULL;
    }
    if (read_errors(destination, now, &failures) < 0 || number_of(destination, s_weight, &weight) < 0)
        return NULL;
    if (failures != 0)
        seconds += failures * failure_cost;
    if (weight == 0) {
        PyErr_SetString(PyExc_ZeroDivisionError, "the server has no weight");
        return NULL;
    }
    return PyFloat_FromDouble(seconds * (active + 1) / weight);
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

/* Rules: content.py and rule_counts.py. */

enum { R_RULE_SET, R_COUNTS, R_IN_ORDER, R_MODIFIERS };
FIELDS(rules, "rule_set", "_counts", "_in_order", "modifiers");

enum { C_REQUESTS };
FIELDS(count, "requests");

enum { G_COMPLETED };
FIELDS(learning, "_completed");

enum { Q_COMPLETED };
FIELDS(request, "completed");

static PyObject *s_added_to, *s_choose, *s_completed, *s_is_repeated, *s_place, *one;

/* The slots of rules are only set when they are made, or by an edit: what is in them is owned here while Python runs. */
static PyObject *
slot_of(PyObject *rules, int field)
{
    PyObject *value = SLOT(rules, rules, field);
    if (value == NULL)
        PyErr_SetString(PyExc_AttributeError, rules_names[field]);
    return Py_XNewRef(value);
}

/* What is at that place of a list; a new reference. */
static PyObject *
at_place(PyObject *list, Py_ssize_t place)
{
    if (list == NULL || !PyList_CheckExact(list) || place < 0 || place >= PyList_GET_SIZE(list)) {
        PyErr_SetString(PyExc_IndexError, "no rule at that place");
        return NULL;
    }
    return Py_NewRef(PyList_GET_ITEM(list, place));
}

/* Counts a request for the rule that takes it, once. */
static int
count_for(PyObject *rules, Py_ssize_t place, PyObject *request)
{
    PyObject *repeated = PyObject_GetAttr(request, s_is_repeated);
    int is_repeated = repeated == NULL ? -1 : PyObject_IsTrue(repeated);
    Py_XDECREF(repeated);
    if (is_repeated)
        return is_repeated < 0 ? -1 : 0;
    PyObject *count = at_place(SLOT(rules, rules, R_COUNTS), place);
    if (count == NULL)
        return -1;
    int result = -1;
    if (IS_A(count, count) && SLOT(count, count, C_REQUESTS) != NULL)
        result = put_made(&SLOT(count, count, C_REQUESTS), PyNumber_Add(SLOT(count, count, C_REQUESTS), one));
    else
        PyErr_SetString(PyExc_TypeError, "no count of a rule");
    Py_DECREF(count);
    return result;
}

/* The choice with what the rule changes in messages. choice: is stolen. */
static PyObject *
with_modifiers(PyObject *rules, PyObject *place, PyObject *choice, PyObject *request)
{
    PyObject *modifiers = slot_of(rules, R_MODIFIERS), *found = NULL;
    if (modifiers != NULL && PyDict_CheckExact(modifiers))
        found = PyDict_GET_SIZE(modifiers) ? Py_XNewRef(PyDict_GetItemWithError(modifiers, place)) : NULL;
    else if (modifiers != NULL)
        PyErr_SetString(PyExc_TypeError, "modifiers is no dict");
    Py_XDECREF(modifiers);
    PyObject *result = NULL;
    if (found != NULL)
        result = PyObject_CallMethodObjArgs(found, s_added_to, choice, request, NULL);
    else if (!PyErr_Occurred())
        result = Py_NewRef(choice);
    Py_XDECREF(found);
    Py_DECREF(choice);
    return result;
}

/* Notes in a request who learns from the choice of the rule at that place. */
static int
note_learner(PyObject *rules, Py_ssize_t place, PyObject *request)
{
    PyObject *completed = at_place(SLOT(rules, learning, G_COMPLETED), place);
    if (completed == NULL)
        return -1;
    if (IS_A(request, request)) {
        put(&SLOT(request, request, Q_COMPLETED), completed);
        return 0;
    }
    int result = PyObject_SetAttr(request, s_completed, completed);
    Py_DECREF(completed);
    return result;
}

/* learns: some of the rules have schedulers that learn. */
static inline PyObject *
choose_by(PyObject *rules, PyObject *request, int learns)
{
    PyObject *finder = slot_of(rules, R_RULE_SET);
    PyObject *place = finder == NULL ? NULL : PyObject_CallMethodOneArg(finder, s_place, request);
    Py_XDECREF(finder);
    if (place == NULL || place == Py_None)
        return place;
    PyObject *scheduler = NULL, *choice = NULL;
    Py_ssize_t number = PyLong_AsSsize_t(place);
    if (!(number == -1 && PyErr_Occurred()) && count_for(rules, number, request) == 0 &&
        (!learns || note_learner(rules, number, request) == 0))
        scheduler = at_place(SLOT(rules, rules, R_IN_ORDER), number);
    if (scheduler != NULL)
        choice = PyObject_CallMethodOneArg(scheduler, s_choose, request);
    Py_XDECREF(scheduler);
    PyObject *result = choice == NULL ? NULL : with_modifiers(rules, place, choice, request);
    Py_DECREF(place);
    return result;
}

static PyObject *
choose(PyObject *rules, PyObject *request)
{
    return choose_by(rules, request, 0);
}

static PyObject *
choose_learning(PyObject *rules, PyObject *request)
{
    return choose_by(rules, request, 1);
}

static PyMethodDef rules_methods[] = {
    {"choose", choose, METH_O, "Return the choice of the first rule that matches, or None."},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef learning_methods[] = {
    {"choose", choose_learning, METH_O, "Return the choice of the first rule that matches, or None."},
    {NULL, NULL, 0, NULL},
};

static PyObject *
configure(PyObject *module, PyObject *classes)
{
    static const Class all[] = {CLASS(rules), CLASS(count), CLASS(learning), CLASS(request), {NULL, NULL, NULL}};
    static const Variable names[] = {
        {&s_added_to, "added_to"}, {&s_choose, "choose"}, {&s_completed, "completed"}, {&s_is_repeated, "is_repeated"},
        {&s_place, "place"}, {NULL, NULL},
    };
    if (!PyDict_Check(classes)) {
        PyErr_SetString(PyExc_TypeError, "configure(classes)");
        return NULL;
    }
    if (learn_all(classes, all) < 0 || make_names(names) < 0 || put_made(&one, PyLong_FromLong(1)) < 0)
        return NULL;
    return Py_BuildValue("(NN)", methods_for(rules_layout.type, rules_methods),
                         methods_for(learning_layout.type, learning_methods));
}

static PyMethodDef functions[] = {
    {"configure", configure, METH_O, "configure(classes): the methods of BoundRules and LearningRules."},
    {"pick", METHOD(pick), METH_FASTCALL, "pick(number, seeds, choices, tried): see hashing.py."},
    {"pick_bounded", METHOD(pick_bounded), METH_FASTCALL,
     "pick_bounded(number, seeds, choices, tried, others, load_factor): see the same."},
    {"draw_two", METHOD(draw_two), METH_FASTCALL, "draw_two(choices, tried, random): see drawing.py."},
    {"expected_cost", METHOD(expected_cost), METH_FASTCALL,
     "expected_cost(destination, now, failure_cost, uncertain): see peak_ewma.py."},
    {"begin", begin, METH_VARARGS, "begin(servers, size): the turns of servers: see maglev_table.py."},
    {"take", take, METH_VARARGS, "take(turns, table, taken, filled, looks): how many entries are taken: see the same."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_compiled", "Compiled forms of functions of ktcpvs.schedulers.", -1, functions, NULL, NULL, NULL,
    NULL,
};

/* Finds where the measurements of a server are. */
static int
learn_measurements(void)
{
    static const Class all[] = {
        {"Latency", &latency_layout, latency_names}, {"ErrorRate", &error_rate_layout, error_rate_names}, {NULL, NULL, NULL},
    };
    PyObject *recent = PyImport_ImportModule("ktcpvs.model.recent");
    PyObject *known = recent == NULL ? NULL : PyModule_GetDict(recent), *seconds = NULL;
    if (known != NULL && learn_all(known, all) == 0 && (seconds = value_named(known, "DECAY")) != NULL)
        decay = PyFloat_AsDouble(seconds);
    Py_XDECREF(recent);
    return seconds == NULL || PyErr_Occurred() ? -1 : 0;
}

PyMODINIT_FUNC
PyInit__compiled(void)
{
    static const Variable names[] = {
        {&s_active, "active"}, {&s_at, "at"}, {&s_destination, "destination"}, {&s_error_rate, "error_rate"},
        {&s_last, "last"}, {&s_latency, "latency"}, {&s_measured_errors, "measured_errors"},
        {&s_measured_latency, "measured_latency"}, {&s_weight, "weight"}, {NULL, NULL},
    };
    return make_names(names) < 0 || learn_measurements() < 0 ? NULL : PyModule_Create(&definition);
}
