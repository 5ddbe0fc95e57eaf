/* The hot functions of rules and the filling of Maglev's tables, compiled: rules.py, content.py and maglev_table.py say
 * what they do, and have the same in Python for where this module is not installed.
 */

#include "_servers.h"

#define MAX_SERVERS 65534

/* A turn takes about as long as looking at so many entries. */
#define LOOKS_OF_A_TURN 5

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

/* Sets of rules: rules.py. */

enum { Z_CACHE, Z_DEFAULT, Z_PREFIXES };
FIELDS(rule_set, "_cache", "_default", "_prefixes");

static PyObject *plain_place;

/* The place of the first rule whose prefix a path has, or `otherwise`; borrowed. NULL, without an exception: the prefixes
 * are not as rules.py makes them. */
static PyObject *
place_by_prefix(PyObject *prefixes, PyObject *otherwise, PyObject *path)
{
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(prefixes); index++) {
        PyObject *pair = PyTuple_GET_ITEM(prefixes, index);
        if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2 || !PyBytes_CheckExact(PyTuple_GET_ITEM(pair, 0)))
            return NULL;
        PyObject *prefix = PyTuple_GET_ITEM(pair, 0);
        size_t size = (size_t)PyBytes_GET_SIZE(prefix);
        if (size <= (size_t)PyBytes_GET_SIZE(path) && memcmp(PyBytes_AS_STRING(path), PyBytes_AS_STRING(prefix), size) == 0)
            return PyTuple_GET_ITEM(pair, 1);
    }
    return otherwise;
}

/* RuleSet.place, a new reference. What is neither a prefix nor cached is left to Python. */
static PyObject *
rule_set_place(PyObject *self, PyObject *request)
{
    PyObject *path = IS_A(request, request) ? SLOT(request, request, R_PATH) : NULL, *place = NULL;
    PyObject *prefixes = SLOT(self, rule_set, Z_PREFIXES), *cache = SLOT(self, rule_set, Z_CACHE);
    if (path != NULL && PyBytes_CheckExact(path)) {
        if (prefixes != NULL && PyTuple_CheckExact(prefixes))
            place = place_by_prefix(prefixes, SLOT(self, rule_set, Z_DEFAULT), path);
        else if (prefixes == Py_None && cache != NULL && PyDict_CheckExact(cache))
            place = PyDict_GetItemWithError(cache, path);
        if (place != NULL)
            return Py_NewRef(place);
        if (PyErr_Occurred())
            return NULL;
    }
    return plainly(plain_place, self, request);
}

static PyMethodDef rule_set_methods[] = {
    {"place", rule_set_place, METH_O, "Return the place of the first rule that matches, or None."},
    {NULL, NULL, 0, NULL},
};

static PyObject *
configure_rule_set(PyObject *module, PyObject *classes)
{
    static const Class all[] = {CLASS(rule_set), {NULL, NULL, NULL}};
    static const Variable methods[] = {{&plain_place, "place"}, {NULL, NULL}};
    if (!PyDict_Check(classes)) {
        PyErr_SetString(PyExc_TypeError, "configure_rule_set(classes)");
        return NULL;
    }
    if (learn_all(classes, all) < 0 || take_methods(rule_set_layout.type, methods) < 0)
        return NULL;
    return Py_BuildValue("(N)", methods_for(rule_set_layout.type, rule_set_methods));
}

/* Rules: content.py and rule_counts.py. */

enum { B_RULE_SET, B_COUNTS, B_IN_ORDER, B_MODIFIERS };
FIELDS(rules, "rule_set", "_counts", "_in_order", "modifiers");

enum { C_REQUESTS };
FIELDS(count, "requests");

enum { G_COMPLETED };
FIELDS(learning, "_completed");

enum { Q_COMPLETED };
FIELDS(chosen_for, "completed");

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
    PyObject *count = at_place(SLOT(rules, rules, B_COUNTS), place);
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
    PyObject *modifiers = slot_of(rules, B_MODIFIERS), *found = NULL;
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
    if (IS_A(request, chosen_for)) {
        put(&SLOT(request, chosen_for, Q_COMPLETED), completed);
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
    PyObject *finder = slot_of(rules, B_RULE_SET);
    PyObject *place = NULL;
    if (finder != NULL)
        place = IS_A(finder, rule_set) ? rule_set_place(finder, request) : PyObject_CallMethodOneArg(finder, s_place, request);
    Py_XDECREF(finder);
    if (place == NULL || place == Py_None)
        return place;
    PyObject *scheduler = NULL, *choice = NULL;
    Py_ssize_t number = PyLong_AsSsize_t(place);
    if (!(number == -1 && PyErr_Occurred()) && count_for(rules, number, request) == 0 &&
        (!learns || note_learner(rules, number, request) == 0))
        scheduler = at_place(SLOT(rules, rules, B_IN_ORDER), number);
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
    static const Class all[] = {CLASS(rules), CLASS(count), CLASS(learning), CLASS(chosen_for), {NULL, NULL, NULL}};
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
    {"configure_rule_set", configure_rule_set, METH_O, "configure_rule_set(classes): the methods of RuleSet."},
    {"begin", begin, METH_VARARGS, "begin(servers, size): the turns of servers: see maglev_table.py."},
    {"take", take, METH_VARARGS, "take(turns, table, taken, filled, looks): how many entries are taken: see the same."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_compiled", "Compiled forms of functions of ktcpvs.schedulers.", -1, functions, NULL, NULL, NULL,
    NULL,
};

PyMODINIT_FUNC
PyInit__compiled(void)
{
    return learn_servers() < 0 ? NULL : PyModule_Create(&definition);
}
