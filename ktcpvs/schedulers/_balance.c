/* `choose` of the schedulers by load and latency, compiled: least.py, p2c.py, drawing.py and peak_ewma.py say what they
 * do, and have the same in Python for where this module is not installed.
 */

#include "_servers.h"
#include <math.h>
#include <time.h>

/* As in drawing.py. */
#define MAX_DRAWS 4
#define GAMMA 0x9E3779B97F4A7C15u

enum { U_PEAK, U_STAMP, U_LAST };
FIELDS(latency, "_peak", "_stamp", "last");

enum { Q_FAILURES, Q_REQUESTS, Q_STAMP };
FIELDS(error_rate, "_failures", "_requests", "_stamp");

enum { L_CHOICES, L_LOAD, L_PLACE };
FIELDS(least, "_choices", "_load", "place");

enum { N_CHOICE, N_DESTINATION };
FIELDS(only, "_choice", "_destination");

enum { P_CHOICES, P_STATE };
FIELDS(p2c, "_choices", "_state");

enum { E_CHOICES, E_FAILURE_COST, E_STATE };
FIELDS(ewma, "_choices", "_failure_cost", "_state");

static PyObject *s_at, *s_clock, *s_error_rate, *s_last, *s_latency, *s_measured_errors, *s_measured_latency,
    *s_usual_latency;
static double decay, least_latency;

/* time.monotonic, the clock of servers outside of tests and simulations. */
static PyObject *monotonic;

/* The choices of a scheduler, owned. */
static inline PyObject *
tuple_of(PyObject *choices)
{
    if (choices == NULL || !PyTuple_Check(choices)) {
        PyErr_SetString(PyExc_TypeError, "the choices of a scheduler must be a tuple");
        return NULL;
    }
    return Py_NewRef(choices);
}

/* The server with the least load: least.py. */

static PyObject *connections, *weighted_connections, *expected_delay, *delay_unless_idle;

/* The load of a server, as the function `load` returns it; those of loads.py are not called. */
static int
load_of(PyObject *load, PyObject *destination, double *value)
{
    double weight, active;
    if (load != weighted_connections && load != connections && load != expected_delay && load != delay_unless_idle) {
        PyObject *result = PyObject_CallOneArg(load, destination);
        if (result == NULL)
            return -1;
        *value = PyFloat_AsDouble(result);
        Py_DECREF(result);
        return *value == -1.0 && PyErr_Occurred() ? -1 : 0;
    }
    if (weight_of(destination, &weight) < 0)
        return -1;
    if (weight == 0) {
        *value = INFINITY;
        return 0;
    }
    if (active_of(destination, &active) < 0)
        return -1;
    if (load == connections)
        *value = active;
    else if (load == weighted_connections)
        *value = active / weight;
    else
        *value = load == delay_unless_idle && active == 0 ? -weight : (active + 1) / weight;
    return 0;
}

/* The place of the usable choice with the least load, the first one from `begin` on; -1: there is none; -2 with an
 * exception. */
static Py_ssize_t
least_of(PyObject *choices, PyObject *load, PyObject *tried, Py_ssize_t begin)
{
    Py_ssize_t found = -1, count = PyTuple_GET_SIZE(choices);
    double least = INFINITY, value;
    for (Py_ssize_t step = 0, place = begin; step < count; step++, place = place + 1 < count ? place + 1 : 0) {
        PyObject *destination = destination_of(PyTuple_GET_ITEM(choices, place));
        if (destination == NULL)
            return -2;
        int result = load_of(load, destination, &value);
        if (result == 0 && value < least) {
            result = is_tried(tried, destination);
            if (result == 0) {
                least = value;
                found = place;
            }
        }
        Py_DECREF(destination);
        if (result < 0)
            return -2;
    }
    return found;
}

static PyObject *
least_choose(PyObject *self, PyObject *request)
{
    PyObject *choices = tuple_of(SLOT(self, least, L_CHOICES)), *load = NULL, *tried = NULL, *place = NULL, *best = NULL;
    if (choices == NULL || (load = OWNED(self, least, L_LOAD)) == NULL || (tried = tried_of(request)) == NULL ||
        (place = OWNED(self, least, L_PLACE)) == NULL)
        goto done;
    Py_ssize_t count = PyTuple_GET_SIZE(choices), begin = PyLong_AsSsize_t(place);
    if (begin == -1 && PyErr_Occurred())
        goto done;
    if (begin < 0 || begin >= count)
        begin = count ? (begin % count + count) % count : 0;
    Py_ssize_t found = least_of(choices, load, tried, begin);
    if (found == -1)
        best = Py_NewRef(Py_None);
    else if (found >= 0 && put_made(&SLOT(self, least, L_PLACE), PyLong_FromSsize_t(found + 1)) == 0)
        best = Py_NewRef(PyTuple_GET_ITEM(choices, found));
done:
    Py_XDECREF(place);
    Py_XDECREF(tried);
    Py_XDECREF(load);
    Py_XDECREF(choices);
    return best;
}

static PyObject *
only_choose(PyObject *self, PyObject *request)
{
    PyObject *destination = OWNED(self, only, N_DESTINATION), *choice = NULL, *tried = NULL;
    double weight;
    if (destination != NULL && weight_of(destination, &weight) == 0) {
        if (!(weight > 0))
            choice = Py_NewRef(Py_None);
        else if ((tried = tried_of(request)) != NULL) {
            int has_been_tried = is_tried(tried, destination);
            if (has_been_tried >= 0)
                choice = has_been_tried ? Py_NewRef(Py_None) : OWNED(self, only, N_CHOICE);
        }
    }
    Py_XDECREF(tried);
    Py_XDECREF(destination);
    return choice;
}

/* Two servers drawn at random: drawing.py. */

/* A choice and its server, both owned. weight: of the server. */
typedef struct {
    PyObject *choice, *destination;
    double weight;
} Drawn;

static void
drop(Drawn *drawn)
{
    Py_CLEAR(drawn->choice);
    Py_CLEAR(drawn->destination);
}

/* Takes a choice whose server can be used. Returns 1; 0 for another one; -1 with an exception. */
static inline int
take_usable(PyObject *choice, PyObject *tried, Drawn *drawn)
{
    int is_usable = usable_server(choice, tried, &drawn->destination, &drawn->weight);
    drawn->choice = is_usable > 0 ? Py_NewRef(choice) : NULL;
    return is_usable;
}

/* Takes any choice. Returns 1, or -1 with an exception. */
static int
take(PyObject *choice, Drawn *drawn)
{
    drawn->destination = destination_of(choice);
    if (drawn->destination == NULL)
        return -1;
    if (weight_of(drawn->destination, &drawn->weight) < 0) {
        Py_CLEAR(drawn->destination);
        return -1;
    }
    drawn->choice = Py_NewRef(choice);
    return 1;
}

/* The places of two different ones of `count`, at least two, by the next number of splitmix64. Returns -1 with an
 * exception: the state is checked each time, since servers that run Python may change it. */
static int
draw_places(PyObject *state, Py_ssize_t count, Py_ssize_t places[2])
{
    if (!PyByteArray_CheckExact(state) || PyByteArray_GET_SIZE(state) != sizeof(uint64_t)) {
        PyErr_SetString(PyExc_TypeError, "the state of random numbers must be a bytearray of 8 bytes");
        return -1;
    }
    uint64_t number, others = (uint64_t)count - 1;
    memcpy(&number, PyByteArray_AS_STRING(state), sizeof number);
    number += GAMMA;
    memcpy(PyByteArray_AS_STRING(state), &number, sizeof number);
    uint64_t pair = (uint64_t)((unsigned __int128)mixed(number) * ((uint64_t)count * others) >> 64);
    places[0] = (Py_ssize_t)(pair / others);
    places[1] = (Py_ssize_t)(pair % others);
    places[1] += places[1] >= places[0];
    return 0;
}

/* Takes two of the choices, if both can be used. Returns 1; 0 if not; -1 with an exception. */
static int
draw_usable(PyObject *choices, PyObject *tried, PyObject *state, Drawn two[2])
{
    Py_ssize_t places[2];
    if (draw_places(state, PyTuple_GET_SIZE(choices), places) < 0)
        return -1;
    int result = take_usable(PyTuple_GET_ITEM(choices, places[0]), tried, &two[0]);
    if (result > 0 && (result = take_usable(PyTuple_GET_ITEM(choices, places[1]), tried, &two[1])) < 1)
        drop(&two[0]);
    return result;
}

/* The usable ones of a tuple, a new tuple. */
static PyObject *
usable_of(PyObject *choices, PyObject *tried)
{
    PyObject *list = PyList_New(0);
    for (Py_ssize_t index = 0; list != NULL && index < PyTuple_GET_SIZE(choices); index++) {
        Drawn one;
        int is_usable = take_usable(PyTuple_GET_ITEM(choices, index), tried, &one);
        if (is_usable < 0 || (is_usable && PyList_Append(list, one.choice) < 0))
            Py_CLEAR(list);
        drop(&one);
    }
    PyObject *usable = list == NULL ? NULL : PyList_AsTuple(list);
    Py_XDECREF(list);
    return usable;
}

/* Takes two of some choices that can be used, or the only one. Returns how many it has taken; -1 with an exception. */
static int
draw_from(PyObject *usable, PyObject *state, Drawn two[2])
{
    Py_ssize_t count = PyTuple_GET_SIZE(usable), places[2] = {0, 0};
    if (count == 0)
        return 0;
    if (count > 1 && draw_places(state, count, places) < 0)
        return -1;
    if (take(PyTuple_GET_ITEM(usable, places[0]), &two[0]) < 0)
        return -1;
    if (count > 1 && take(PyTuple_GET_ITEM(usable, places[1]), &two[1]) < 0) {
        drop(&two[0]);
        return -1;
    }
    return count > 1 ? 2 : 1;
}

/* draw_two of drawing.py. Returns how many it has drawn, 0 to 2; -1 with an exception. */
static int
draw_two(PyObject *choices, PyObject *tried, PyObject *state, Drawn two[2])
{
    for (int draw = 0; draw < MAX_DRAWS && PyTuple_GET_SIZE(choices) > 1; draw++) {
        int result = draw_usable(choices, tried, state, two);
        if (result != 0)
            return result < 0 ? -1 : 2;
    }
    PyObject *usable = usable_of(choices, tried);
    int count = usable == NULL ? -1 : draw_from(usable, state, two);
    Py_XDECREF(usable);
    return count;
}

/* Which of two drawn servers a scheduler prefers: 0 or 1; -1 with an exception. */
typedef int (*Comparison)(PyObject *scheduler, const Drawn two[2]);

/* The better one of two usable choices that are drawn at random; None: there is none. choices, state: of the scheduler, from
 * its slots. */
static PyObject *
better_of_two(PyObject *self, PyObject *choices, PyObject *state, PyObject *request, Comparison compare)
{
    Drawn two[2];
    choices = tuple_of(choices);
    state = choices == NULL ? NULL : owned(state, "_state");
    PyObject *tried = state == NULL ? NULL : tried_of(request), *chosen = NULL;
    int count = tried == NULL ? -1 : draw_two(choices, tried, state, two);
    int better = count == 2 ? compare(self, two) : 0;
    if (count == 0)
        chosen = Py_NewRef(Py_None);
    else if (count > 0 && better >= 0)
        chosen = Py_NewRef(two[better].choice);
    for (int index = 0; index < count; index++)
        drop(&two[index]);
    Py_XDECREF(state);
    Py_XDECREF(choices);
    Py_XDECREF(tried);
    return chosen;
}

/* p2c.py */
static int
less_loaded(PyObject *self, const Drawn two[2])
{
    double active[2];
    (void)self;
    if (active_of(two[0].destination, &active[0]) < 0 || active_of(two[1].destination, &active[1]) < 0)
        return -1;
    return !(active[0] * two[1].weight <= active[1] * two[0].weight);
}

static PyObject *
p2c_choose(PyObject *self, PyObject *request)
{
    return better_of_two(self, SLOT(self, p2c, P_CHOICES), SLOT(self, p2c, P_STATE), request, less_loaded);
}

/* The sooner expected response: peak_ewma.py. */

/* What costs are computed with. at: the same as `now`, or NULL while it has not been needed. */
typedef struct {
    PyObject *scheduler, *at;
    double now, failure_cost;
} Moment;

/* The result of at(now) of an object of any class. */
static int
value_at(PyObject *measured, Moment *moment, double *value)
{
    if (moment->at == NULL && (moment->at = PyFloat_FromDouble(moment->now)) == NULL)
        return -1;
    PyObject *result = PyObject_CallMethodOneArg(measured, s_at, moment->at);
    if (result == NULL)
        return -1;
    *value = PyFloat_AsDouble(result);
    Py_DECREF(result);
    return *value == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* What is left of 1 since `stamp`. */
static inline double
left_of(double stamp, double now)
{
    return exp((stamp - now) / decay);
}

/* The peak EWMA of a latency, and the last one, of an object of any class. */
static int
read_any_latency(PyObject *destination, Moment *moment, double *seconds, double *last)
{
    PyObject *measured = PyObject_GetAttr(destination, s_measured_latency);
    if (measured == Py_None) {
        Py_DECREF(measured);
        measured = PyObject_GetAttr(destination, s_latency); /* which begins to measure */
    }
    if (measured == NULL)
        return -1;
    int result = value_at(measured, moment, seconds) < 0 ? -1 : number_of(measured, s_last, last);
    Py_DECREF(measured);
    return result;
}

static inline int
read_latency(PyObject *destination, Moment *moment, double *seconds, double *last)
{
    PyObject *real = counted(destination), *measured = real == NULL ? NULL : SLOT(real, destination, T_MEASURED_LATENCY);
    double peak, stamp;
    if (!IS_A(measured, latency) || !plain_number(SLOT(measured, latency, U_PEAK), &peak) ||
        !plain_number(SLOT(measured, latency, U_STAMP), &stamp) || !plain_number(SLOT(measured, latency, U_LAST), last))
        return read_any_latency(destination, moment, seconds, last);
    *seconds = peak == 0 ? 0 : peak * left_of(stamp, moment->now);
    return 0;
}

/* The share of failures, of an object of any class. */
static int
read_any_errors(PyObject *destination, Moment *moment, double *share)
{
    PyObject *measured = PyObject_GetAttr(destination, s_measured_errors);
    if (measured == NULL)
        return -1;
    int result = measured == Py_None ? number_of(destination, s_error_rate, share) /* which begins to measure */
                                     : value_at(measured, moment, share);
    Py_DECREF(measured);
    return result;
}

static inline int
read_errors(PyObject *destination, Moment *moment, double *share)
{
    PyObject *real = counted(destination), *measured = real == NULL ? NULL : SLOT(real, destination, T_MEASURED_ERRORS);
    double failures, requests, stamp;
    if (!IS_A(measured, error_rate) || !plain_number(SLOT(measured, error_rate, Q_FAILURES), &failures))
        return read_any_errors(destination, moment, share);
    *share = 0;
    if (failures == 0)
        return 0;
    if (!plain_number(SLOT(measured, error_rate, Q_REQUESTS), &requests) || requests == 0 ||
        !plain_number(SLOT(measured, error_rate, Q_STAMP), &stamp))
        return read_any_errors(destination, moment, share);
    *share = failures / requests * left_of(stamp, moment->now);
    return 0;
}

/* _uncertain_latency. seconds: as decayed. */
static int
take_uncertain(PyObject *scheduler, double *seconds, double last, double active)
{
    double usual = 0;
    if (last == 0 || active != 0) {
        PyObject *result = PyObject_CallMethodNoArgs(scheduler, s_usual_latency);
        if (result == NULL)
            return -1;
        usual = PyFloat_AsDouble(result);
        Py_DECREF(result);
        if (usual == -1.0 && PyErr_Occurred())
            return -1;
    }
    if (last == 0) {
        *seconds = usual;
        return 0;
    }
    if (active != 0 && (last < usual ? last : usual) > *seconds)
        *seconds = last < usual ? last : usual;
    if (least_latency > *seconds)
        *seconds = least_latency;
    return 0;
}

/* The expected cost of one more request at a server. */
static inline int
read_cost(const Drawn *drawn, Moment *moment, double *cost)
{
    PyObject *destination = drawn->destination;
    double seconds, last, active, failures;
    if (read_latency(destination, moment, &seconds, &last) < 0 || active_of(destination, &active) < 0)
        return -1;
    if (seconds <= last / 2 && take_uncertain(moment->scheduler, &seconds, last, active) < 0)
        return -1;
    if (read_errors(destination, moment, &failures) < 0)
        return -1;
    if (failures != 0)
        seconds += failures * moment->failure_cost;
    if (drawn->weight == 0) {
        PyErr_SetString(PyExc_ZeroDivisionError, "the server has no weight");
        return -1;
    }
    *cost = seconds * (active + 1) / drawn->weight;
    return 0;
}

/* The time by the clock of a server. Returns -1 with an exception. */
static int
time_of(PyObject *destination, double *now)
{
    PyObject *real = counted(destination), *clock = real == NULL ? NULL : SLOT(real, destination, T_CLOCK);
    if (clock != NULL && clock == monotonic) {
        struct timespec time;
        clock_gettime(CLOCK_MONOTONIC, &time);
        *now = (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
        return 0;
    }
    clock = clock != NULL ? Py_NewRef(clock) : PyObject_GetAttr(destination, s_clock);
    PyObject *time = clock == NULL ? NULL : PyObject_CallNoArgs(clock);
    Py_XDECREF(clock);
    if (time == NULL)
        return -1;
    *now = PyFloat_AsDouble(time);
    Py_DECREF(time);
    return *now == -1.0 && PyErr_Occurred() ? -1 : 0;
}

static int
sooner_expected(PyObject *self, const Drawn two[2])
{
    Moment moment = {.scheduler = self};
    if (!plain_number(SLOT(self, ewma, E_FAILURE_COST), &moment.failure_cost)) {
        PyErr_SetString(PyExc_TypeError, "failure_cost must be a number");
        return -1;
    }
    double costs[2];
    int result = time_of(two[0].destination, &moment.now);
    for (int index = 0; result == 0 && index < 2; index++)
        result = read_cost(&two[index], &moment, &costs[index]);
    Py_XDECREF(moment.at);
    return result < 0 ? -1 : !(costs[0] <= costs[1]);
}

static PyObject *
ewma_choose(PyObject *self, PyObject *request)
{
    return better_of_two(self, SLOT(self, ewma, E_CHOICES), SLOT(self, ewma, E_STATE), request, sooner_expected);
}

/* Configuration. */

CHOOSE(least, least_choose, "Return the choice with the least load, or None.");
CHOOSE(only, only_choose, "Return the only choice, or None.");
CHOOSE(p2c, p2c_choose, "Return the less loaded of two choices, or None.");
CHOOSE(ewma, ewma_choose, "Return the one of two choices that is expected to respond sooner, or None.");

static PyObject *
configure_least(PyObject *module, PyObject *args)
{
    static const Variable loads[] = {
        {&connections, "connections"}, {&weighted_connections, "weighted_connections"}, {&expected_delay, "expected_delay"},
        {&delay_unless_idle, "delay_unless_idle"}, {NULL, NULL},
    };
    PyObject *least_type, *only_type, *given;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOO!", &least_type, &only_type, &PyDict_Type, &given) || take_values(given, loads) < 0)
        return NULL;
    PyObject *least = method_for(least_type, &least_layout, least_names, &least_method);
    PyObject *only = least == NULL ? NULL : method_for(only_type, &only_layout, only_names, &only_method);
    PyObject *both = only == NULL ? NULL : PyTuple_Pack(2, least, only);
    Py_XDECREF(least);
    Py_XDECREF(only);
    return both;
}

static PyObject *
configure_p2c(PyObject *module, PyObject *type)
{
    (void)module;
    return method_for(type, &p2c_layout, p2c_names, &p2c_method);
}

static PyObject *
configure_peak_ewma(PyObject *module, PyObject *args)
{
    PyObject *type;
    (void)module;
    if (!PyArg_ParseTuple(args, "Od", &type, &least_latency))
        return NULL;
    return method_for(type, &ewma_layout, ewma_names, &ewma_method);
}

static PyMethodDef functions[] = {
    {"configure_least", configure_least, METH_VARARGS,
     "configure_least(LeastLoad, OnlyOne, loads): `choose` of both classes. loads: name -> function, of loads.py."},
    {"configure_p2c", configure_p2c, METH_O, "configure_p2c(BoundP2C): its `choose`."},
    {"configure_peak_ewma", configure_peak_ewma, METH_VARARGS,
     "configure_peak_ewma(BoundPeakEWMA, LEAST_LATENCY): its `choose`."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_balance", "Compiled `choose` of ktcpvs.schedulers.", -1, functions, NULL, NULL, NULL, NULL,
};

/* Finds where the measurements of a server are. */
static int
learn_measurements(void)
{
    static const Class all[] = {
        {"Latency", &latency_layout, latency_names}, {"ErrorRate", &error_rate_layout, error_rate_names}, {NULL, NULL, NULL},
    };
    PyObject *known = names_of("ktcpvs.model.recent"), *seconds = NULL;
    if (known != NULL && learn_all(known, all) == 0 && (seconds = value_named(known, "DECAY")) != NULL)
        decay = PyFloat_AsDouble(seconds);
    Py_XDECREF(known);
    return seconds == NULL || PyErr_Occurred() ? -1 : 0;
}

static int
learn_clock(void)
{
    PyObject *module = PyImport_ImportModule("time");
    int result = module == NULL ? -1 : put_made(&monotonic, PyObject_GetAttrString(module, "monotonic"));
    Py_XDECREF(module);
    return result;
}

PyMODINIT_FUNC
PyInit__balance(void)
{
    static const Variable names[] = {
        {&s_at, "at"}, {&s_clock, "clock"}, {&s_error_rate, "error_rate"}, {&s_last, "last"}, {&s_latency, "latency"},
        {&s_measured_errors, "measured_errors"}, {&s_measured_latency, "measured_latency"},
        {&s_usual_latency, "usual_latency"}, {NULL, NULL},
    };
    if (make_names(names) < 0 || learn_servers() < 0 || learn_measurements() < 0 || learn_clock() < 0)
        return NULL;
    return PyModule_Create(&definition);
}
