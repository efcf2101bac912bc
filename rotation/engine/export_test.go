package engine

import "context"

// StepRotation, StepRetirement, StepDelivery and StepPlacement take one step as a worker would;
// again tells that another one is due at once.
func (e *Engine) StepRotation(ctx context.Context, id string) (again bool, err error) {
	res, err := e.stepRotation(ctx, id)
	return res.again, err
}

func (e *Engine) StepRetirement(ctx context.Context, id string) (again bool, err error) {
	res, err := e.stepRetirement(ctx, id)
	return res.again, err
}

func (e *Engine) StepDelivery(ctx context.Context, id string) (again bool, err error) {
	res, err := e.stepDelivery(ctx, id)
	return res.again, err
}

func (e *Engine) StepPlacement(ctx context.Context, id string) (again bool, err error) {
	res, err := e.stepPlacement(ctx, id)
	return res.again, err
}
