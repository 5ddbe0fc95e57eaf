/* Servers and their counters, as the compiled functions of schedulers read them. model/destination.py and
 * model/weighed_destination.py say what they are.
 *
 * The servers of the switch are read at their slots, which runs no Python. Others may be objects of any class, whose
 * attributes run Python: each object that is in use is owned, and the choices are in tuples, which nobody changes
 * meanwhile.
 */

#ifndef KTCPVS_SERVERS_H
#define KTCPVS_SERVERS_H

#include "../_configuration.h"
#include <stdint.h>
#include <string.h>

enum { T_ACTIVE, T_CLOCK, T_MEASURED_ERRORS, T_MEASURED_LATENCY, T_SHARE, T_WEIGHT };
FIELDS(destination, "active", "clock", "measured_errors", "measured_latency", "share", "weight");

enum { S_ROW };
FIELDS(shared, "row");

enum { W_OWN, W_REAL };
FIELDS(weighed, "_own", "real");

enum { O_DESTINATION };
FIELDS(choice, "destination");

enum { R_CLIENT, R_PATH, R_TRIED };
FIELDS(request, "client", "path", "tried");

static PyObject *s_active, *s_destination, *s_tried, *s_weight;

/* mixed() of hashing.py */
static inline uint64_t
mixed(uint64_t number)
{
    number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9u;
    number = (number ^ (number >> 27)) * 0x94D049BB133111EBu;
    return number ^ (number >> 31);
}

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

/* The value of an int of one digit, without a call. Returns 1; 0 for a larger one. */
static inline int
small_int(PyObject *value, double *number)
{
#if PY_VERSION_HEX >= 0x030C0000
    if (!PyUnstable_Long_IsCompact((PyLongObject *)value))
        return 0;
    *number = (double)PyUnstable_Long_CompactValue((PyLongObject *)value);
#else
    if (Py_SIZE(value) != 0 && Py_SIZE(value) != 1)
        return 0;
    *number = Py_SIZE(value) ? (double)((PyLongObject *)value)->ob_digit[0] : 0;
#endif
    return 1;
}

/* The value of an int or a float. Returns 1; 0 for what is neither, or too large. */
static inline int
plain_number(PyObject *value, double *number)
{
    if (value == NULL)
        return 0;
    if (PyFloat_CheckExact(value)) {
        *number = PyFloat_AS_DOUBLE(value);
        return 1;
    }
    if (!PyLong_CheckExact(value))
        return 0;
    if (small_int(value, number))
        return 1;
    int overflow;
    *number = (double)PyLong_AsLongAndOverflow(value, &overflow);
    return !overflow;
}

/* What an object of the switch says the counters of a server are in, borrowed; NULL: an object of another class. */
static inline PyObject *
counted(PyObject *destination)
{
    if (IS_A(destination, weighed))
        destination = SLOT(destination, weighed, W_REAL);
    return IS_A(destination, destination) || IS_A(destination, shared) ? destination : NULL;
}

/* The weight of a server. Returns -1 with an exception. */
static inline int
weight_of(PyObject *destination, double *weight)
{
    PyObject *real = counted(destination);
    double share;
    if (real != NULL && plain_number(SLOT(real, destination, T_WEIGHT), weight)) {
        if (real == destination)
            return 0;
        if (plain_number(SLOT(real, destination, T_SHARE), &share) && *weight == share &&
            plain_number(SLOT(destination, weighed, W_OWN), &share)) {
            if (*weight != 0)
                *weight = share;
            return 0;
        }
    }
    return number_of(destination, s_weight, weight);
}

/* Adds up the counts of all processes. Returns 1; 0 for what is not as the switch makes it. */
static int
sum_row(PyObject *row, double *sum)
{
    Py_buffer view;
    if (row == NULL || !PyMemoryView_Check(row))
        return 0;
    if (PyObject_GetBuffer(row, &view, PyBUF_FORMAT | PyBUF_ND) < 0) {
        PyErr_Clear();
        return 0;
    }
    int is_usual = view.ndim == 1 && view.itemsize == sizeof(int) && view.format != NULL && strcmp(view.format, "i") == 0;
    long long total = 0;
    for (Py_ssize_t index = 0; is_usual && index < view.shape[0]; index++)
        total += ((const volatile int *)view.buf)[index]; /* which other processes write */
    PyBuffer_Release(&view);
    *sum = (double)total;
    return is_usual;
}

/* The connections of a server. Returns -1 with an exception. */
static inline int
active_of(PyObject *destination, double *active)
{
    PyObject *real = counted(destination);
    if (real != NULL && (IS_A(real, shared) ? sum_row(SLOT(real, shared, S_ROW), active)
                                            : plain_number(SLOT(real, destination, T_ACTIVE), active)))
        return 0;
    return number_of(destination, s_active, active);
}

/* The server of a choice, a new reference. */
static inline PyObject *
destination_of(PyObject *choice)
{
    return IS_A(choice, choice) && SLOT(choice, choice, O_DESTINATION) != NULL
               ? Py_NewRef(SLOT(choice, choice, O_DESTINATION))
               : PyObject_GetAttr(choice, s_destination);
}

/* The servers that have been tried for a request, a new reference. */
static inline PyObject *
tried_of(PyObject *request)
{
    return IS_A(request, request) && SLOT(request, request, R_TRIED) != NULL ? Py_NewRef(SLOT(request, request, R_TRIED))
                                                                             : PyObject_GetAttr(request, s_tried);
}

/* Whether a server has been tried. Returns 1, 0, or -1 with an exception. */
static inline int
is_tried(PyObject *tried, PyObject *destination)
{
    if (PyAnySet_CheckExact(tried) && PySet_GET_SIZE(tried) == 0)
        return 0;
    PyObject *real = counted(destination); /* which is equal to it */
    if (real == NULL || !PyAnySet_CheckExact(tried))
        return PySequence_Contains(tried, real != NULL ? real : destination);
    Py_INCREF(real); /* a comparison in Python can take it from the view of a rule */
    int result = PySet_Contains(tried, real);
    Py_DECREF(real);
    return result;
}

/* The server of a choice, a new reference, where it has a weight and has not been tried. Returns 1; 0 for another server;
 * -1 with an exception. */
static inline int
usable_server(PyObject *choice, PyObject *tried, PyObject **destination, double *weight)
{
    *destination = destination_of(choice);
    if (*destination == NULL)
        return -1;
    int is_usable = weight_of(*destination, weight) < 0 ? -1 : *weight > 0;
    if (is_usable > 0) {
        int has_been_tried = is_tried(tried, *destination);
        is_usable = has_been_tried < 0 ? -1 : !has_been_tried;
    }
    if (is_usable < 1)
        Py_CLEAR(*destination);
    return is_usable;
}

/* A dict of a module of the model; NULL with an exception. */
static PyObject *
names_of(const char *module)
{
    PyObject *found = PyImport_ImportModule(module);
    PyObject *names = found == NULL ? NULL : Py_NewRef(PyModule_GetDict(found));
    Py_XDECREF(found);
    return names;
}

/* Finds the slots of classes of a module of the model. */
static int
learn_from(const char *module, const Class *classes)
{
    PyObject *names = names_of(module);
    int result = names == NULL ? -1 : learn_all(names, classes);
    Py_XDECREF(names);
    return result;
}

/* Finds where the attributes of servers, choices and requests are. */
static int
learn_servers(void)
{
    static const Class servers[] = {
        {"Destination", &destination_layout, destination_names},
        {"SharedDestination", &shared_layout, shared_names},
        {NULL, NULL, NULL},
    };
    static const Class views[] = {{"WeighedDestination", &weighed_layout, weighed_names}, {NULL, NULL, NULL}};
    static const Class choices[] = {
        {"Choice", &choice_layout, choice_names}, {"Request", &request_layout, request_names}, {NULL, NULL, NULL},
    };
    static const Variable names[] = {
        {&s_active, "active"}, {&s_destination, "destination"}, {&s_tried, "tried"}, {&s_weight, "weight"}, {NULL, NULL},
    };
    if (make_names(names) < 0 || learn_from("ktcpvs.model.destination", servers) < 0 ||
        learn_from("ktcpvs.model.weighed_destination", views) < 0)
        return -1;
    return learn_from("ktcpvs.model.scheduling", choices);
}

/* A slot of a scheduler, owned while Python runs; NULL with an exception. */
static inline PyObject *
owned(PyObject *value, const char *name)
{
    if (value == NULL)
        PyErr_SetString(PyExc_AttributeError, name);
    return Py_XNewRef(value);
}

#define OWNED(object, layout, field) owned(SLOT(object, layout, field), layout##_names[field])

/* Finds the slots of a class, and returns its method `choose`. */
MAYBE_UNUSED static PyObject *
method_for(PyObject *type, Layout *layout, const char *const *names, PyMethodDef *choose)
{
    if (!PyType_Check(type)) {
        PyErr_SetString(PyExc_TypeError, "no class");
        return NULL;
    }
    return learn(layout, names, (PyTypeObject *)type) < 0 ? NULL : PyDescr_NewMethod((PyTypeObject *)type, choose);
}

#define CHOOSE(name, function, text)                                                                                       \
    static PyMethodDef name##_method = {"choose", function, METH_O, text}

#endif
