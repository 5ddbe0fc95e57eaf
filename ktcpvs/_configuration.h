/* What the `configure` functions of the extensions have in common: they get classes and values by name, and return
 * methods. */

#ifndef KTCPVS_CONFIGURATION_H
#define KTCPVS_CONFIGURATION_H

#include "_slots.h"

/* A class whose slots a module reads. Lists of them end with {NULL}. */
typedef struct {
    const char *name; /* that configure() gets it by */
    Layout *layout;
    const char *const *names;
} Class;

#define CLASS(name) {#name, &name##_layout, name##_names}

/* A variable of a module for one object. Lists of them end with {NULL}. */
typedef struct {
    PyObject **place;
    const char *name;
} Variable;

/* The class of that name in a dict; borrowed. NULL with an exception. */
MAYBE_UNUSED static PyTypeObject *
class_of(PyObject *classes, const char *name)
{
    PyObject *type = PyDict_GetItemString(classes, name);
    if (type == NULL || !PyType_Check(type)) {
        PyErr_Format(PyExc_TypeError, "no class for %s", name);
        return NULL;
    }
    return (PyTypeObject *)type;
}

/* Finds the slots of all these classes. */
MAYBE_UNUSED static int
learn_all(PyObject *classes, const Class *all)
{
    for (; all->name != NULL; all++) {
        PyTypeObject *type = class_of(classes, all->name);
        if (type == NULL || learn(all->layout, all->names, type) < 0)
            return -1;
    }
    return 0;
}

/* Takes a class whose slots are not read. */
MAYBE_UNUSED static int
take_class(PyObject *classes, const char *name, PyTypeObject **place)
{
    PyTypeObject *type = class_of(classes, name);
    if (type == NULL)
        return -1;
    Py_XSETREF(*place, (PyTypeObject *)Py_NewRef((PyObject *)type));
    return 0;
}

/* The value of that name in a dict; borrowed. NULL with an exception. */
static inline PyObject *
value_named(PyObject *values, const char *name)
{
    PyObject *value = PyDict_GetItemString(values, name);
    if (value == NULL)
        PyErr_Format(PyExc_TypeError, "no value for %s", name);
    return value;
}

/* Takes all these values. */
MAYBE_UNUSED static int
take_values(PyObject *values, const Variable *all)
{
    for (; all->place != NULL; all++) {
        PyObject *value = value_named(values, all->name);
        if (value == NULL)
            return -1;
        put_new(all->place, value);
    }
    return 0;
}

MAYBE_UNUSED static int
take_number(PyObject *values, const char *name, long *place)
{
    PyObject *value = value_named(values, name);
    *place = value == NULL ? -1 : PyLong_AsLong(value);
    return *place == -1 && PyErr_Occurred() ? -1 : 0;
}

/* Takes the methods of a class as they are written in Python. */
MAYBE_UNUSED static int
take_methods(PyTypeObject *type, const Variable *all)
{
    for (; all->place != NULL; all++)
        if (put_made(all->place, PyObject_GetAttrString((PyObject *)type, all->name)) < 0)
            return -1;
    return 0;
}

/* Makes the names of attributes. */
MAYBE_UNUSED static int
make_names(const Variable *all)
{
    for (; all->place != NULL; all++)
        if (put_made(all->place, PyUnicode_InternFromString(all->name)) < 0)
            return -1;
    return 0;
}

/* Makes methods of a class that is written in Python. Returns them by name. */
MAYBE_UNUSED static PyObject *
methods_for(PyTypeObject *type, PyMethodDef *methods)
{
    PyObject *made = PyDict_New();
    for (; made != NULL && methods->ml_name != NULL; methods++) {
        PyObject *method = PyDescr_NewMethod(type, methods);
        if (method == NULL || PyDict_SetItemString(made, methods->ml_name, method) < 0)
            Py_CLEAR(made);
        Py_XDECREF(method);
    }
    return made;
}

#endif
