/* Access from C to objects of classes with __slots__: their attributes are read and written at the slots' offsets. */

#ifndef KTCPVS_SLOTS_H
#define KTCPVS_SLOTS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

enum { MAX_FIELDS = 40 };

/* Where the attributes of a class are. */
typedef struct {
    PyTypeObject *type;
    Py_ssize_t offset[MAX_FIELDS];
} Layout;

#define FIELDS(name, ...)                                                                                              \
    static Layout name##_layout;                                                                                       \
    static const char *const name##_names[] = {__VA_ARGS__, NULL}

#define SLOT(object, layout, field) (*(PyObject **)((char *)(object) + layout##_layout.offset[field]))
#define IS_A(object, layout) ((object) != NULL && Py_TYPE(object) == layout##_layout.type)

/* Slots with a bool. */
#define IS(object, layout, field) (SLOT(object, layout, field) == Py_True)
#define SET(object, layout, field, value) put_new(&SLOT(object, layout, field), (value) ? Py_True : Py_False)

/* For methods with another signature than that of PyCFunction. */
#define METHOD(function) (PyCFunction)(void (*)(void))(function)

#define MAYBE_UNUSED __attribute__((unused))

/* Finds the offsets of a class's slots. Returns -1 with an exception when an attribute is no slot. */
MAYBE_UNUSED static int
learn(Layout *layout, const char *const *names, PyTypeObject *type)
{
    for (int i = 0; names[i]; i++) {
        PyObject *member = PyObject_GetAttrString((PyObject *)type, names[i]);
        if (member == NULL)
            return -1;
        if (!Py_IS_TYPE(member, &PyMemberDescr_Type)) {
            PyErr_Format(PyExc_TypeError, "%s.%s is no slot", type->tp_name, names[i]);
            Py_DECREF(member);
            return -1;
        }
        layout->offset[i] = ((PyMemberDescrObject *)member)->d_member->offset;
        Py_DECREF(member);
    }
    Py_INCREF(type);
    layout->type = type;
    return 0;
}

static inline void
put(PyObject **place, PyObject *value)
{
    PyObject *old = *place;
    *place = value;
    Py_XDECREF(old);
}

static inline void
put_new(PyObject **place, PyObject *value)
{
    put(place, Py_NewRef(value));
}

static inline int
put_made(PyObject **place, PyObject *value)
{
    if (value == NULL)
        return -1;
    put(place, value);
    return 0;
}

/* Gives several slots one value: FILL(self, connection, Py_None, C_TIMER, C_RELAY). */
#define FILL(object, layout, value, ...)                                                                               \
    do {                                                                                                               \
        static const int fields[] = {__VA_ARGS__};                                                                     \
        for (size_t at = 0; at < sizeof fields / sizeof *fields; at++)                                                 \
            put_new(&SLOT(object, layout, fields[at]), value);                                                         \
    } while (0)

/* Calls a method of a class, as it is there, with an object of a class below it. all: the object, then the arguments. */
MAYBE_UNUSED static PyObject *
call_base(PyTypeObject *base, PyObject *name, PyObject *const *all, size_t count)
{
    PyObject *method = PyObject_GetAttr((PyObject *)base, name);
    PyObject *result = method == NULL ? NULL : PyObject_Vectorcall(method, all, count, NULL);
    Py_XDECREF(method);
    return result;
}

/* Calls a method and drops its result. argument: NULL for none. */
static inline int
call(PyObject *object, PyObject *name, PyObject *argument)
{
    PyObject *result = argument ? PyObject_CallMethodOneArg(object, name, argument) : PyObject_CallMethodNoArgs(object, name);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static inline PyObject *
done(int result)
{
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

/* Calls a method as it is written in Python. argument: NULL for none. */
static inline PyObject *
plainly(PyObject *method, PyObject *self, PyObject *argument)
{
    return PyObject_CallFunctionObjArgs(method, self, argument, NULL);
}

static inline int
is_zero(PyObject *number)
{
    return number != NULL && PyLong_CheckExact(number) && !PyObject_IsTrue(number);
}

static inline int
is_no_bytes(PyObject *value)
{
    return value != NULL && PyBytes_CheckExact(value) && PyBytes_GET_SIZE(value) == 0;
}

/* Calls a method with the exception that is set, which it handles. Returns -1 if that cannot be. extra: NULL, or another
 * argument. */
MAYBE_UNUSED static int
handle_any(PyObject *object, PyObject *name, PyObject *extra)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(value, traceback);
    PyObject *result = PyObject_CallMethodObjArgs(object, name, value, extra, NULL);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* The same for an Exception; returns -1 for others, such as SystemExit. */
MAYBE_UNUSED static int
handle(PyObject *object, PyObject *name, PyObject *extra)
{
    return PyErr_ExceptionMatches(PyExc_Exception) ? handle_any(object, name, extra) : -1;
}

#endif
