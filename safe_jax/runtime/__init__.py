"""The ground floor: messages for the user, files on a disk or in a bucket, devices, and hosts.

Nothing here knows of images or imports another room.
"""
