/* A controller whose code takes every kind of way: those the data leave alone, and some that they
 * decide. */
#ifndef WAY_H
#define WAY_H

#define WAY_OBSERVATION_SIZE 8
#define WAY_ACTION_SIZE 4

typedef unsigned int way_status;

typedef struct {
    float memory[8];
} way_state;

void way_reset(way_state *s);
void way_evaluate(way_state *s, const float obs[], float act[]);
way_status way_step(way_state *s, const float obs[], float act[]);
way_status way_self_test(void);

/* The data decide how often, which way, where to, and through a place on the stack. */
void way_counted(way_state *s, const float obs[], float act[]);
void way_chosen(way_state *s, const float obs[], float act[]);
void way_stored(way_state *s, const float obs[], float act[]);
void way_endless(way_state *s, const float obs[], float act[]);

#endif
