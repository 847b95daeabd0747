"""Many trials on one data set: laid out, carried out, compared; the winner judged once on images that chose nothing."""
