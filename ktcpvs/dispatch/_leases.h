/* Choices of schedulers, destinations and their leases, as the compiled methods of client connections see them. What
 * they do, and why, stands in dispatch/selection.py and model/destination.py. */

#ifndef KTCPVS_LEASES_H
#define KTCPVS_LEASES_H

#include "../_configuration.h"

enum { O_DESTINATION, O_REASON, O_LINES, O_ANSWER_LINES, O_COMPLETED, O_WHY };
FIELDS(choice, "destination", "reason", "lines", "answer_lines", "completed", "why");

enum { L_DESTINATION, L_ENDED };
FIELDS(lease, "destination", "ended");

enum { T_MAXCONN, T_TOTAL, T_REUSED, T_WATCHERS, T_ACTIVE, T_FREED, T_HEARD, T_ERRORS, T_LATENCIES, T_BYTES_IN,
       T_BYTES_OUT, T_MEASURED_LATENCY, T_MEASURED_ERRORS };
FIELDS(destination, "maxconn", "total", "reused", "watchers", "active", "freed", "heard", "errors", "latencies",
       "bytes_in", "bytes_out", "measured_latency", "measured_errors");

static PyTypeObject *shared_destination_type;

static inline int
is_destination(PyObject *object)
{
    return IS_A(object, destination) || (object != NULL && Py_TYPE(object) == shared_destination_type);
}

/* True for a choice whose fields are as Selector.judge demands it: they come from a plugin, which can return anything. */
MAYBE_UNUSED static int
is_proper(PyObject *choice)
{
    PyObject *reason = SLOT(choice, choice, O_REASON), *lines = SLOT(choice, choice, O_LINES);
    PyObject *answer_lines = SLOT(choice, choice, O_ANSWER_LINES), *why = SLOT(choice, choice, O_WHY);
    PyObject *completed = SLOT(choice, choice, O_COMPLETED);
    return is_destination(SLOT(choice, choice, O_DESTINATION)) && reason && PyUnicode_Check(reason) && lines &&
           (lines == Py_None || PyBytes_Check(lines)) && answer_lines && PyBytes_Check(answer_lines) && why &&
           PyUnicode_Check(why) && completed && (completed == Py_None || PyCallable_Check(completed));
}

/* The connections of a server whose counters this process alone writes, and which nobody watches; NULL for others. */
static inline PyObject *
active_of(PyObject *destination)
{
    if (!IS_A(destination, destination))
        return NULL;
    PyObject *watchers = SLOT(destination, destination, T_WATCHERS), *active = SLOT(destination, destination, T_ACTIVE);
    return watchers && PyTuple_CheckExact(watchers) && PyTuple_GET_SIZE(watchers) == 0 && active && PyLong_CheckExact(active)
               ? active
               : NULL;
}

/* Returns -1 with an exception, as where a plugin has set a number that does not fit. */
static inline int
add_active(PyObject *destination, PyObject *active, int more)
{
    long count = PyLong_AsLong(active);
    if (count == -1 && PyErr_Occurred())
        return -1;
    return put_made(&SLOT(destination, destination, T_ACTIVE), PyLong_FromLong(count + more));
}

/* Destination.lease() */
MAYBE_UNUSED static PyObject *
make_lease(PyObject *destination)
{
    PyObject *active = active_of(destination);
    if (active == NULL)
        return PyObject_CallOneArg((PyObject *)lease_layout.type, destination);
    PyObject *lease = lease_layout.type->tp_alloc(lease_layout.type, 0);
    if (lease == NULL)
        return NULL;
    SLOT(lease, lease, L_DESTINATION) = Py_NewRef(destination);
    SLOT(lease, lease, L_ENDED) = Py_NewRef(Py_False);
    if (add_active(destination, active, 1) < 0)
        Py_CLEAR(lease);
    return lease;
}

/* Lease.end(), where nothing but the count changes. Returns 1; 0 if Python must do it; -1 with an exception. */
MAYBE_UNUSED static int
end_lease(PyObject *lease)
{
    PyObject *destination = SLOT(lease, lease, L_DESTINATION), *active = active_of(destination);
    if (active == NULL || SLOT(destination, destination, T_FREED) != Py_None)
        return 0;
    if (IS(lease, lease, L_ENDED))
        return 1;
    SET(lease, lease, L_ENDED, 1);
    return add_active(destination, active, -1) < 0 ? -1 : 1;
}

#endif
