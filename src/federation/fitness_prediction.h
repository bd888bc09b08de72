// What the clients of a kind tell about a pair that was never tried: ridge regression of the
// trained pairs' loss or accuracy on the clients' affinity (LinUCB: Li et al., WWW 2010, arXiv
// 1003.0146, with one linear model an expert).
#pragma once

#include <Eigen/Core>
#include <span>

#include "common/ids.h"
#include "federation/fitness.h"

namespace fedmoe {

// clients x experts each, in the order given.
struct FitnessPrediction {
  Eigen::MatrixXd value;     // of the loss or accuracy signal
  Eigen::MatrixXd variance;  // of that, in pseudo-observations: 1 knows nothing, 0 all; (0, 1]
};

// Layer by layer, with x_c the client's affinity row scaled to length 1, m_c the mean of the
// signals of the experts that it has trained (neutral for none), and y_ce its signal less m_c (so
// that a client's hard data is no expert's fault, and who claims the best of every expert says
// nothing):
//   A_e = I + sum_c w_ce x_c x_c^T,  b_e = sum_c w_ce y_ce x_c,
//   value = m_c + x_c . A_e^-1 b_e,  variance = x_c . A_e^-1 x_c
// over every client of the table that has trained e, w_ce its trials up to four. With no trained
// pairs, as under FitnessSignal::kAffinity, the value is neutral and the variance 1. Time: the
// layer's experts squared for each trained pair of the table and for each pair asked for.
FitnessPrediction PredictFitness(const FitnessTable& table, std::span<const ClientId> clients,
                                 FitnessSignal signal);

}  // namespace fedmoe
